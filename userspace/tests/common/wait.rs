//! Waiting for conditions; nothing in the tests sleeps for a time and hopes.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// Polls until there is a value, or gives up.
pub fn wait_for<T>(timeout: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = poll() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PERIOD);
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not in time, naming it.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let held = wait_for(timeout, || condition().then_some(()));
    assert!(held.is_some(), "{what}: not so after {timeout:?}");
}
