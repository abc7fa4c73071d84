//! Tests that can be longer than a run of the suite has time for.

/// Whether the run is the long one: `NETNS_TESTS=long`.
///
/// # Panics
/// When that is another word.
pub fn is_long() -> bool {
    match std::env::var("NETNS_TESTS") {
        Err(_) => false,
        Ok(word) => {
            assert_eq!(word, "long", "NETNS_TESTS: not a length of the run");
            true
        }
    }
}

/// The size of something in the short form, or in the long one.
pub fn sized<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}
