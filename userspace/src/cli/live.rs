//! Counters that redraw themselves on a terminal.

use std::io::{self, IsTerminal, Write};

use super::status::{drops, pods, publishes};
use crate::instance::Status;

/// A drawing that replaces the one before, below whatever was printed earlier.
#[derive(Debug, Default)]
pub(super) struct Live {
    lines: usize,
}

impl Live {
    /// A drawing for standard output; `None` when it is no terminal, and there is nothing to redraw.
    pub(super) fn on_terminal() -> Option<Self> {
        io::stdout().is_terminal().then(Self::default)
    }

    /// Draws, over the last drawing.
    pub(super) fn draw(&mut self, status: &Status) {
        let sections = [pods(status), publishes(status), drops(status), "Ctrl-C removes every trace\n".to_owned()];
        let text: Vec<_> = sections.iter().filter(|s| !s.is_empty()).map(String::as_str).collect();
        let frame = frame(&text.join("\n"), self.lines, terminal_size::terminal_size());
        self.lines = frame.lines;
        let mut out = io::stdout();
        // A terminal that went away is noticed by the signal that comes with it.
        let _ = out.write_all(frame.text.as_bytes()).and_then(|()| out.flush());
    }
}

struct Frame {
    text: String,
    lines: usize,
}

/// Cuts a drawing to the terminal, so that moving up by its height finds its beginning again.
fn frame(text: &str, last: usize, size: Option<(terminal_size::Width, terminal_size::Height)>) -> Frame {
    let (width, height) = size.map_or((80, 24), |(w, h)| (usize::from(w.0), usize::from(h.0)));
    let lines: Vec<String> =
        text.lines().take(height.saturating_sub(1)).map(|l| l.chars().take(width).collect()).collect();
    let up = if last == 0 { String::new() } else { format!("\x1b[{last}A") };
    Frame { text: format!("{up}\r\x1b[J{}\n", lines.join("\n")), lines: lines.len() }
}

#[cfg(test)]
mod tests {
    use terminal_size::{Height, Width};

    use super::*;

    #[test]
    fn a_frame_fits_and_replaces_the_last() {
        let f = frame("abcdef\n2\n3\n4\n", 2, Some((Width(3), Height(3))));
        assert_eq!((f.text.as_str(), f.lines), ("\x1b[2A\r\x1b[Jabc\n2\n", 2));
    }
}
