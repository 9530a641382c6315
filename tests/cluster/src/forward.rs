//! Carries connections from this machine's loopback address into a cluster's namespace.
//!
//! A cluster's network has no link to the machine's own, and tests, `kubectl` and an operator under a debugger run in the
//! latter. One process can be in both: it listens on the loopback address first and enters the namespace then, and its
//! listening socket stays where it was made. So any client with a kubeconfig works, no interface, route or firewall rule
//! of the machine changes, and the port is gone with the process.

use std::{
    fs::{self, File},
    io,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::Error;

/// Far more than a connection inside one machine takes.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Listens on a free port, writes its number to a file, and carries what comes to `target` in the namespace, for ever.
/// With a number in the file already (a forwarder that was killed), on that one.
pub(crate) fn serve(namespace: &Path, target: &str, port_file: &Path) -> Result<(), Error> {
    let earlier = fs::read_to_string(port_file).unwrap_or_default();
    let address = ("127.0.0.1", earlier.parse().unwrap_or(0));
    let listener = TcpListener::bind(address).map_err(Error::file("listen for", port_file))?;
    let port = listener
        .local_addr()
        .map_err(Error::file("listen for", port_file))?
        .port();
    let file = File::open(namespace).map_err(Error::file("open", namespace))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| Error::file("enter", namespace)(error.into()))?;
    let unfinished = port_file.with_extension("unfinished");
    fs::write(&unfinished, port.to_string())
        .and_then(|()| fs::rename(&unfinished, port_file))
        .map_err(Error::file("write", port_file))?;
    let target = target.parse().map_err(Error::data("the address of the API server"))?;
    for connection in listener.incoming().flatten() {
        // Threads inherit the namespace. A server that is away refuses, and its client sees the connection end.
        thread::spawn(move || {
            if let Ok(server) = TcpStream::connect_timeout(&target, CONNECT_LIMIT) {
                carry(connection, server);
            }
        });
    }
    Ok(())
}

/// Copies both ways until both have ended.
fn carry(client: TcpStream, server: TcpStream) {
    let (Ok(client_reader), Ok(server_reader)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let upward = thread::spawn(move || copy(client_reader, server));
    copy(server_reader, client);
    let _ = upward.join();
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    if io::copy(&mut from, &mut to).is_err() {
        // A reset of one side is one of the other: half a connection would leave its peer waiting.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        return;
    }
    let _ = to.shutdown(Shutdown::Write);
}
