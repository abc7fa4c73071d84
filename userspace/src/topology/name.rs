//! Names of pods and networks.
//!
//! A pod's name becomes a file in `/run/netns`; the rule is stricter than `ip netns`'s so that a name is also a word in
//! tables, in shells and in other tools' configuration.

use super::Problem;

/// Longest name.
pub const MAX_NAME_BYTES: usize = 128;

/// Checks a name: letters, digits, `.`, `-`, `_`; a letter or digit first; at most [`MAX_NAME_BYTES`].
///
/// This excludes `/`, `.`, `..`, NUL, newline, other control characters, white space and `%d` patterns.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let Some(first) = name.chars().next() else { return Err(Problem::NameEmpty) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(Problem::NameCharacter(c));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(Problem::NameStart);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(Problem::NameTooLong { len: name.len() });
    }
    Ok(())
}

/// Checks the name of an interface as the kernel does, and that it is no pattern for one (`%d`).
///
/// # Errors
///
/// It is none.
pub fn check_ifname(name: &str) -> Result<(), Problem> {
    let odd = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name.contains(odd) || name == "." || name == ".." {
        return Err(Problem::Ifname);
    }
    Ok(())
}
