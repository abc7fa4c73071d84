//! The same work on many things at once.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Threads for each CPU: much of the work is waiting for locks and work items of the kernel.
const PER_CPU: usize = 2;
/// More of them stand in each other's way.
const MOST: usize = 16;

/// Does `work` on all items, several at once, and returns what each gave, in their order.
///
/// # Errors
///
/// One of those that failed: what was not begun by then is not begun any more, and nothing is still at work.
pub(crate) fn for_all<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = (PER_CPU * cpus).min(MOST).min(items.len());
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, Result<R, E>)>> = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        let turn = || {
            while !failed.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { return };
                let result = work(item);
                failed.fetch_or(result.is_err(), Ordering::Relaxed);
                done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
            }
        };
        // What no thread can be had for is done by those there are, this one at least.
        for _ in 1..threads {
            let _began = thread::Builder::new().name("netns-many".to_owned()).spawn_scoped(scope, turn);
        }
        turn();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_order_whatever_the_threads() {
        for n in [0, 1, 2, 1000] {
            let items: Vec<usize> = (0..n).collect();
            assert_eq!(
                for_all(&items, |i| Ok::<_, ()>(i * 2)).unwrap(),
                items.iter().map(|i| i * 2).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn several_are_at_work_at_once() {
        // Whoever comes alone would wait for ever.
        let both = Barrier::new(2);
        let ids = for_all(&[(); 2], |()| {
            both.wait();
            Ok::<_, ()>(thread::current().id())
        });
        assert_eq!(ids.unwrap().into_iter().collect::<HashSet<_>>().len(), 2);
    }

    #[test]
    fn a_failure_ends_it_and_is_the_result() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..100_000).collect();
        let failed = for_all(&items, |i| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *i == 3 { Err(*i) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err(), 3);
        assert!(begun.into_inner() < items.len());
    }
}
