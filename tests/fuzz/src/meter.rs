//! An allocator that counts what is alive, so that an input's memory has a bound that is checked.
//!
//! A block that is resized counts with its new size alone: the system moves large ones without a copy.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

static ALIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let alive = ALIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(alive, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            add(size - layout.size());
        } else {
            ALIVE.fetch_sub(layout.size() - size, Relaxed);
        }
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Runs `read` and asserts that no more than `limit` bytes were alive at once beyond those that were
/// before. `more` says what the limit is raised by, and is asked only when it matters.
pub fn bounded<T>(limit: usize, more: impl FnOnce() -> usize, read: impl FnOnce() -> T) -> T {
    let before = ALIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let value = read();
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    check(taken, limit, more);
    value
}

/// As [`bounded`], but what is kept afterwards does not count.
pub fn transient<T>(limit: usize, more: impl FnOnce() -> usize, read: impl FnOnce() -> T) -> T {
    let before = ALIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let value = read();
    let kept = ALIVE.load(Relaxed).max(before);
    let taken = PEAK.load(Relaxed).saturating_sub(kept);
    check(taken, limit, more);
    value
}

fn check(taken: usize, limit: usize, more: impl FnOnce() -> usize) {
    if taken > limit {
        let limit = limit + more();
        assert!(taken <= limit, "{taken} bytes were allocated; at most {limit} for this input");
    }
}
