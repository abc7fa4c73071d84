//! Running other programs: failures name the command line.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// What [`Command`] lacks: an error that says what was run.
pub trait Run {
    /// Runs it on our own terminal; fails unless it exits 0.
    fn run(&mut self) -> Result<()>;
    /// Its exit status, on our own terminal.
    fn exit_status(&mut self) -> Result<ExitStatus>;
    /// Its standard output as text; fails, with its standard error, unless it exits 0.
    fn text(&mut self) -> Result<String>;
    /// Becomes that program; returns only if that fails.
    fn become_it(&mut self) -> anyhow::Error;
    /// The command line, for people.
    fn line(&self) -> String;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        let status = self.exit_status()?;
        if !status.success() {
            bail!("`{}`: {status}", self.line());
        }
        Ok(())
    }

    fn exit_status(&mut self) -> Result<ExitStatus> {
        self.status().with_context(|| format!("cannot run `{}`", self.line()))
    }

    fn text(&mut self) -> Result<String> {
        let output = self.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", self.line()))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`{}`: {}: {}", self.line(), output.status, error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn become_it(&mut self) -> anyhow::Error {
        let error = self.exec();
        anyhow::Error::new(error).context(format!("cannot run `{}`", self.line()))
    }

    fn line(&self) -> String {
        let words: Vec<_> =
            [self.get_program()].into_iter().chain(self.get_args()).map(OsStr::to_string_lossy).collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_words() {
        let error = Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]).text().unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no such thing") && error.contains('3'), "{error}");
        assert!(Command::new("./does-not-exist").run().unwrap_err().to_string().contains("./does-not-exist"));
    }
}
