//! Least privilege, proven: what the installed operator may do is what it does, and a runner's token opens nothing but its
//! own mailbox.

mod admission;
mod audited;
mod intruder;
mod token;
