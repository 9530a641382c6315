//! Memory that several threads write in disjoint parts.
#![expect(unsafe_code, reason = "the compiler cannot see that the parts are disjoint")]

use std::marker::PhantomData;

/// A mutable slice that can be handed to several threads. Who takes parts of it promises that they are disjoint.
#[derive(Debug)]
pub(crate) struct Shared<'slice, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'slice mut [T]>,
}

// Derived, they would ask the same of `T`.
impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: it is a mutable slice; that its parts are disjoint is the promise of who takes them.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'slice, T> Shared<'slice, T> {
    /// Wraps a slice.
    pub(crate) const fn new(slice: &'slice mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            slice: PhantomData,
        }
    }

    /// A pointer to the element at `index`, which may be one past the last.
    pub(crate) const fn at(self, index: usize) -> *mut T {
        debug_assert!(index <= self.length, "a part beyond the end of a shared slice");
        // SAFETY: within the allocation, or one past it.
        unsafe { self.start.add(index) }
    }

    /// The elements `from..from + length`.
    ///
    /// # Safety
    /// Nobody else uses these elements as long as the part lives.
    pub(crate) const unsafe fn part(self, from: usize, length: usize) -> &'slice mut [T] {
        debug_assert!(from + length <= self.length, "a part beyond the end of a shared slice");
        // SAFETY: within the slice; the caller promises that it is disjoint from all others.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), length) }
    }
}
