//! The store as a SQLite file: a table of rows, whose fields are JSON that the kinds themselves write and read.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::copy::Copy;
use super::{Change, Phase, Row, RowId, State, Store, StoreError};

/// What the file's `user_version` must be. Fields that are added to a kind have a default and do not raise it.
const SCHEMA: i64 = 4;

/// Numbers that are unique among rows are so for the file as well: a mistake fails before the kernel is touched. An address may
/// pass from a row that goes to one that comes.
const TABLES: &str = "
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL) STRICT;
    INSERT INTO counter VALUES (1, 0);
    CREATE TABLE row (
        kind TEXT NOT NULL, id INTEGER NOT NULL, phase TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX network_name ON row (body ->> '$.network.name') WHERE kind = 'network';
    CREATE UNIQUE INDEX pod_name ON row (body ->> '$.name') WHERE kind = 'pod';
    CREATE UNIQUE INDEX attachment_slot ON row (body ->> '$.slot') WHERE kind = 'attachment';
    CREATE UNIQUE INDEX attachment_addr4 ON row (body ->> '$.network', body ->> '$.addr4', phase) WHERE kind = 'attachment';
    CREATE UNIQUE INDEX attachment_addr6 ON row (body ->> '$.network', body ->> '$.addr6', phase) WHERE kind = 'attachment';
    CREATE UNIQUE INDEX publish_index ON row (body ->> '$.index') WHERE kind = 'publish';
";

/// How long a writer waits for another one; the instance's lock keeps them apart anyway.
const BUSY: Duration = Duration::from_secs(10);

/// A state file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    // Closed before what it is a connection to goes.
    db: Connection,
    _copy: Option<Copy>,
}

impl SqliteStore {
    /// Makes an empty state file, or opens the one there is.
    ///
    /// It appears complete with its tables or not at all, so that an empty file is known to be a damaged one.
    ///
    /// # Errors
    ///
    /// It cannot be made, or is damaged.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            let fresh = path.with_extension("new");
            let io = |source| StoreError::Io { path: fresh.clone(), source };
            match fs::remove_file(&fresh) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
                _ => {}
            }
            let sql = |e| sqlite_error(&fresh, e);
            let mut db = Connection::open(&fresh).map_err(sql)?;
            make_tables(&mut db).map_err(sql)?;
            db.close().map_err(|(_, e)| sql(e))?;
            fs::rename(&fresh, path).map_err(io)?;
        }
        Self::open(path)
    }

    /// Opens the state file there is, to read and write it.
    ///
    /// # Errors
    ///
    /// It is absent or damaged, or another version's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let sql = |e| sqlite_error(path, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let this = Self::checked(path, Connection::open_with_flags(path, flags).map_err(sql)?)?;
        this.db.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
        // The file lives in memory: what survives a crash of the machine is nothing either way.
        this.db.pragma_update(None, "synchronous", "OFF").map_err(sql)?;
        Ok(this)
    }

    /// Opens the state file there is, to read it: also where nothing can be written, as on a file system that is full.
    ///
    /// # Errors
    ///
    /// It is absent or damaged, or another version's.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let sql = |e| sqlite_error(path, e);
        let open = |flags, name: &Path| {
            let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let this = Self::checked(path, Connection::open_with_flags(name, flags).map_err(sql)?)?;
            this.db.pragma_update(None, "query_only", true).map_err(sql)?;
            Ok(this)
        };
        // As one that might write, it takes what connections share with it when it is the last to go.
        let usual = open(OpenFlags::SQLITE_OPEN_READ_WRITE, path);
        if !usual.as_ref().is_err_and(is_unshareable) {
            return usual;
        }
        let shared = open(OpenFlags::SQLITE_OPEN_READ_ONLY, path);
        if !shared.as_ref().is_err_and(is_unshareable) {
            return shared;
        }
        if has_log(path) {
            let io = |source| StoreError::Io { path: path.to_owned(), source };
            let copy = Copy::of(path, &beside(path, "-wal")).map_err(io)?;
            let store = open(OpenFlags::SQLITE_OPEN_READ_WRITE, &copy.file())?;
            return Ok(Self { _copy: Some(copy), ..store });
        }
        // Without a log of changes the file itself is all there is.
        let uri = format!("file:{}?immutable=1", escaped(path));
        open(OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI, Path::new(&uri))
    }

    fn checked(path: &Path, db: Connection) -> Result<Self, StoreError> {
        let sql = |e| sqlite_error(path, e);
        db.busy_timeout(BUSY).map_err(sql)?;
        match db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql)? {
            0 => Err(StoreError::Damaged { path: path.to_owned(), reason: "it is empty".to_owned() }),
            SCHEMA => Ok(Self { path: path.to_owned(), db, _copy: None }),
            found => Err(StoreError::Version { path: path.to_owned(), found, known: SCHEMA }),
        }
    }

    fn read(&self) -> Result<State, StoreError> {
        let sql = |e| sqlite_error(&self.path, e);
        // One statement: the rows are seen as of one moment.
        let mut select = self.db.prepare_cached("SELECT kind, id, phase, body FROM row").map_err(sql)?;
        let mut found = select.query([]).map_err(sql)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(sql)? {
            let column = |i| row.get_ref(i).and_then(|v| Ok(v.as_str()?)).map_err(sql);
            let (kind, phase, body) = (column(0)?, column(2)?, column(3)?);
            let id: i64 = row.get(1).map_err(sql)?;
            let damaged =
                |why: &str| StoreError::Damaged { path: self.path.clone(), reason: format!("{kind} {id}: {why}") };
            let known = Phase::ALL.into_iter().find(|p| p.as_str() == phase).ok_or_else(|| damaged("unknown phase"))?;
            let row = parse(kind, body).map_err(|e| damaged(&e))?;
            if key(row.id()) != (kind, id) {
                return Err(damaged("it says it is another"));
            }
            rows.push(row.at(known));
        }
        Ok(rows.into_iter().collect())
    }
}

impl Store for SqliteStore {
    fn load(&self) -> Result<State, StoreError> {
        self.read()
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut run = || -> rusqlite::Result<()> {
            let tx = self.db.transaction()?;
            for change in changes {
                change_row(&tx, change)?;
            }
            tx.commit()
        };
        run().map_err(|e| sqlite_error(&self.path, e))
    }

    fn next_id(&mut self) -> Result<u64, StoreError> {
        self.db
            .query_row("UPDATE counter SET last = last + 1 RETURNING last", [], |r| r.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(|e| sqlite_error(&self.path, e))
    }
}

fn make_tables(db: &mut Connection) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "user_version", SCHEMA)?;
    tx.commit()
}

/// Whether SQLite could not set up what its connections share: only that takes room to read.
fn is_unshareable(error: &StoreError) -> bool {
    let StoreError::Sqlite { source: rusqlite::Error::SqliteFailure(f, _), .. } = error else { return false };
    matches!(f.code, ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::DiskFull | ErrorCode::ReadOnly)
}

/// Whether there are changes that are not in the file itself yet.
fn has_log(path: &Path) -> bool {
    fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0)
}

/// One of the files SQLite keeps beside its own.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A path as part of a URI.
fn escaped(path: &Path) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"/._-".contains(&b);
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().map(|b| if keep(*b) { char::from(*b).to_string() } else { format!("%{b:02x}") }).collect()
}

fn sqlite_error(path: &Path, error: rusqlite::Error) -> StoreError {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    match &error {
        rusqlite::Error::SqliteFailure(f, _)
            if matches!(f.code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) =>
        {
            damaged(error.to_string())
        }
        // A value or a table that is not what was written.
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::InvalidColumnName(_)
        | rusqlite::Error::IntegralValueOutOfRange(..) => damaged(error.to_string()),
        rusqlite::Error::SqliteFailure(_, Some(m)) if m.starts_with("no such table") => damaged(m.clone()),
        _ => StoreError::Sqlite { path: path.to_owned(), source: error },
    }
}

fn change_row(tx: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Put(row) => {
            let (kind, id) = key(row.id());
            tx.prepare_cached(
                "INSERT INTO row VALUES (?1, ?2, ?3, ?4) ON CONFLICT (kind, id) DO UPDATE SET phase = ?3, body = ?4",
            )?
            .execute(params![kind, id, row.phase().as_str(), body(row)])?;
        }
        Change::Delete(id) => {
            tx.prepare_cached("DELETE FROM row WHERE kind = ?1 AND id = ?2")?.execute(key(*id))?;
        }
    }
    Ok(())
}

/// The words of the kinds, and what is written of each.
macro_rules! kinds {
    ($($variant:ident = $word:literal),+) => {
        fn body(row: &Row) -> String {
            // Maps with text for keys, numbers and text: there is nothing in it that could fail.
            match row { $(Row::$variant(r) => serde_json::to_string(r)),+ }.unwrap_or_default()
        }

        fn parse(kind: &str, body: &str) -> Result<Row, String> {
            match kind {
                $($word => serde_json::from_str(body).map(Row::$variant).map_err(|e| e.to_string()),)+
                _ => Err("unknown kind".to_owned()),
            }
        }
    };
}

kinds!(Instance = "instance", Network = "network", Pod = "pod", Attachment = "attachment", Publish = "publish");

const fn key(id: RowId) -> (&'static str, i64) {
    match id {
        RowId::Instance => ("instance", 1),
        RowId::Network(id) => ("network", id as i64),
        RowId::Pod(id) => ("pod", id.cast_signed()),
        RowId::Attachment(id) => ("attachment", id.cast_signed()),
        RowId::Publish(id) => ("publish", id.cast_signed()),
    }
}
