//! How are many buckets changed without a call for each?
//!
//! ```text
//!   array in the kernel ══ the same pages ══ Mapped, as long as a change takes
//! ```

#![expect(unsafe_code, reason = "memory that the kernel shares")]

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{Ordering, fence};

use libbpf_rs::{MapCore, MapHandle};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::hash::{Bucket, Buckets};

/// The elements of an array that can be mapped. Owns the mapping.
///
/// The program may read what is being written, and finds out by itself (`control` in `tables.h`).
pub(crate) struct Mapped<'a> {
    start: NonNull<u8>,
    length: NonZeroUsize,
    /// Bytes of an element, and from one to the next.
    element: usize,
    stride: usize,
    count: u32,
    map: PhantomData<&'a MapHandle>,
}

impl<'a> Mapped<'a> {
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn of(map: &'a MapHandle) -> io::Result<Self> {
        let (element, count) = (map.value_size() as usize, map.max_entries());
        // The kernel begins each at a multiple of eight (`array_map_alloc`).
        let stride = element.next_multiple_of(8);
        let length = NonZeroUsize::new(stride * count as usize)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: at no fixed address, so that nothing else is replaced.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, map.as_fd(), 0) }?;
        Ok(Self { start: start.cast(), length, element, stride, count, map: PhantomData })
    }

    /// Where an element begins.
    fn at(&self, at: u32) -> *mut u8 {
        let at = at.min(self.count - 1) as usize;
        // SAFETY: one of `count` elements, which the mapping has; there is one at least.
        unsafe { self.start.as_ptr().add(at * self.stride) }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // What was written is there before `control` is turned.
        fence(Ordering::SeqCst);
        // SAFETY: the very mapping, of which no reference is left.
        let _ = unsafe { munmap(self.start.cast(), self.length.get()) };
    }
}

impl Buckets for Mapped<'_> {
    type Error = Infallible;

    fn count(&self) -> u32 {
        self.count
    }

    fn get(&self, at: u32) -> Result<Bucket, Infallible> {
        let mut bucket = Bucket::of(&[]);
        let room = bucket.room(self.element);
        // SAFETY: `room` has at most as many bytes as the element.
        unsafe { ptr::copy_nonoverlapping(self.at(at), room.as_mut_ptr(), room.len()) };
        Ok(bucket)
    }

    fn set(&mut self, at: u32, bucket: &Bucket) -> Result<(), Infallible> {
        let bytes = bucket.first(self.element);
        // SAFETY: `bytes` are at most as many as the element has.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(at), bytes.len()) };
        Ok(())
    }
}
