//! Names as they come and go.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::{NetnsError, NetnsName, RUN_DIR, list_named};

/// A name has come or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEvent {
    /// It is there now. Its namespace is bound to it a moment later.
    Added(NetnsName),
    /// It is not there any more.
    Deleted(NetnsName),
}

/// The changes of [`RUN_DIR`] from now on, whether it is there or not: the first name makes it, and the last may take it
/// along.
#[derive(Debug)]
pub struct NameWatch {
    inotify: Inotify,
    directory: Option<WatchDescriptor>,
    known: BTreeSet<NetnsName>,
    waiting: VecDeque<NameEvent>,
}

impl NameWatch {
    /// Watches the calling thread's view of the file system.
    ///
    /// # Errors
    ///
    /// The kernel has no more watches to give, or the directory cannot be read.
    pub fn new() -> Result<Self, NetnsError> {
        let (run, failed) = (parent(), |e| NetnsError::io("watch", parent(), e));
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
        // First the directory above: if ours comes before it is looked for, it is found twice and not missed.
        inotify.add_watch(run, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR).map_err(failed)?;
        let mut watch = Self { inotify, directory: None, known: BTreeSet::new(), waiting: VecDeque::new() };
        watch.look_again()?;
        // What is there already is no news.
        watch.waiting.clear();
        Ok(watch)
    }

    /// Waits for the next change.
    ///
    /// # Errors
    ///
    /// The watch broke, or the directory cannot be read.
    pub fn next_event(&mut self) -> Result<NameEvent, NetnsError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            let events = match self.inotify.read_events() {
                Err(nix::errno::Errno::EINTR) => continue,
                events => events.map_err(|e| NetnsError::io("watch", RUN_DIR, e))?,
            };
            for event in events {
                self.take(&event)?;
            }
        }
    }

    fn take(&mut self, event: &InotifyEvent) -> Result<(), NetnsError> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return self.look_again();
        }
        if self.directory != Some(event.wd) {
            let own = Path::new(RUN_DIR).file_name();
            return if event.name.as_deref() == own { self.look_again() } else { Ok(()) };
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directory = None;
            return self.look_again();
        }
        // Files whose names are none of ours to print are left out, as in a listing.
        let name = event.name.as_ref().and_then(|name| name.to_str()).and_then(|name| NetnsName::new(name).ok());
        let Some(name) = name else { return Ok(()) };
        if event.mask.contains(AddWatchFlags::IN_CREATE) && self.known.insert(name.clone()) {
            self.waiting.push_back(NameEvent::Added(name));
        } else if event.mask.contains(AddWatchFlags::IN_DELETE) && self.known.remove(&name) {
            self.waiting.push_back(NameEvent::Deleted(name));
        }
        Ok(())
    }

    /// Watches the directory if it is there, and makes up for what was missed.
    fn look_again(&mut self) -> Result<(), NetnsError> {
        let kinds = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        // The same directory again is the same watch.
        self.directory = match self.inotify.add_watch(RUN_DIR, kinds) {
            Ok(watch) => Some(watch),
            Err(nix::errno::Errno::ENOENT) => None,
            Err(e) => return Err(NetnsError::io("watch", RUN_DIR, e)),
        };
        // After the watch: what comes in between is told twice by the kernel and once by us.
        let now: BTreeSet<_> = list_named()?.into_iter().collect();
        self.waiting.extend(self.known.difference(&now).cloned().map(NameEvent::Deleted));
        self.waiting.extend(now.difference(&self.known).cloned().map(NameEvent::Added));
        self.known = now;
        Ok(())
    }
}

fn parent() -> &'static Path {
    Path::new(RUN_DIR).parent().unwrap_or(Path::new("/"))
}
