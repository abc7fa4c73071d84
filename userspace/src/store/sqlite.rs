//! The store as a SQLite file.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};

use super::{BackendRow, Change, InstanceRow, NetworkRow, Origin, Phase, PodRow, PublishRow, State, Store, StoreError};
use crate::topology::{Allow, Flows, Host, Nat, Network, Seconds, Timeouts};

/// Schema changes in order: the file's `user_version` is how many of them it has seen. Append only.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL) STRICT;
    INSERT INTO counter VALUES (1, 0);
    CREATE TABLE instance (
        id INTEGER PRIMARY KEY CHECK (id = 1), host_netns TEXT, uplink_word TEXT NOT NULL, snat_ports TEXT NOT NULL,
        mtu INTEGER, uplink TEXT, uplink_ifindex INTEGER NOT NULL, reserved_ports TEXT NOT NULL, phase TEXT NOT NULL
    ) STRICT;
    CREATE TABLE network (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, subnets TEXT NOT NULL, masquerade INTEGER NOT NULL,
        no_masquerade TEXT NOT NULL, mtu INTEGER, mtu_bytes INTEGER NOT NULL, host_access INTEGER NOT NULL,
        last4 TEXT, last6 TEXT, origin TEXT NOT NULL, phase TEXT NOT NULL
    ) STRICT;
    CREATE TABLE pod (
        id INTEGER PRIMARY KEY, slot INTEGER NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE,
        network INTEGER NOT NULL REFERENCES network (id), addr4 TEXT, addr6 TEXT, foreign_netns INTEGER NOT NULL,
        origin TEXT NOT NULL, phase TEXT NOT NULL, UNIQUE (network, addr4), UNIQUE (network, addr6)
    ) STRICT;
    CREATE TABLE publish (
        id INTEGER PRIMARY KEY, slot INTEGER NOT NULL UNIQUE, pod INTEGER NOT NULL REFERENCES pod (id),
        publish TEXT NOT NULL, origin TEXT NOT NULL, phase TEXT NOT NULL
    ) STRICT;
    CREATE INDEX publish_pod ON publish (pod);
",
    "
    ALTER TABLE instance ADD COLUMN host_id TEXT NOT NULL DEFAULT '';
    ALTER TABLE instance ADD COLUMN nat_profile TEXT NOT NULL DEFAULT 'rfc';
    ALTER TABLE instance ADD COLUMN tcp_established_s INTEGER NOT NULL DEFAULT 7440;
    ALTER TABLE instance ADD COLUMN tcp_transitory_s INTEGER NOT NULL DEFAULT 240;
    ALTER TABLE instance ADD COLUMN udp_s INTEGER NOT NULL DEFAULT 300;
    ALTER TABLE instance ADD COLUMN icmp_s INTEGER NOT NULL DEFAULT 60;
    ALTER TABLE publish ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
",
    // A publish had one pod, in a column that goes with its table, as SQLite drops none that refers to another table.
    "
    ALTER TABLE instance ADD COLUMN flows INTEGER NOT NULL DEFAULT 131072;
    ALTER TABLE instance ADD COLUMN flows_per_pod INTEGER;
    ALTER TABLE instance ADD COLUMN uplinks TEXT NOT NULL DEFAULT '';
    UPDATE instance SET uplinks = uplink || ':' || uplink_ifindex WHERE uplink IS NOT NULL;
    ALTER TABLE instance DROP COLUMN uplink;
    ALTER TABLE instance DROP COLUMN uplink_ifindex;
    ALTER TABLE network ADD COLUMN snat_address TEXT NOT NULL DEFAULT '';
    ALTER TABLE network ADD COLUMN mapping TEXT NOT NULL DEFAULT 'address-and-port-dependent';
    ALTER TABLE network ADD COLUMN filtering TEXT NOT NULL DEFAULT 'address-and-port-dependent';
    ALTER TABLE publish RENAME TO publish_2;
    CREATE TABLE publish (
        id INTEGER PRIMARY KEY, slot INTEGER NOT NULL UNIQUE, publish TEXT NOT NULL, affinity TEXT NOT NULL, allow TEXT,
        draining INTEGER NOT NULL, origin TEXT NOT NULL, phase TEXT NOT NULL
    ) STRICT;
    INSERT INTO publish SELECT id, slot, publish, 'none', NULL, draining, origin, phase FROM publish_2;
    CREATE TABLE backend (
        publish INTEGER NOT NULL REFERENCES publish (id) ON DELETE CASCADE, place INTEGER NOT NULL,
        pod INTEGER NOT NULL REFERENCES pod (id), weight INTEGER NOT NULL, draining INTEGER NOT NULL,
        PRIMARY KEY (publish, place), UNIQUE (publish, pod)
    ) STRICT;
    INSERT INTO backend SELECT id, 0, pod, 1, 0 FROM publish_2;
    DROP TABLE publish_2;
    CREATE INDEX backend_pod ON backend (pod);
",
];

/// How long a writer waits for another one; the instance's lock keeps them apart anyway.
const BUSY: Duration = Duration::from_secs(10);

/// A state file.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    db: Connection,
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
            migrate(&mut db, 0).map_err(sql)?;
            db.close().map_err(|(_, e)| sql(e))?;
            fs::rename(&fresh, path).map_err(io)?;
        }
        Self::open(path)
    }

    /// Opens the state file there is.
    ///
    /// # Errors
    ///
    /// It is absent or damaged, or another version's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let sql = |e| sqlite_error(path, e);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Connection::open_with_flags(path, flags).map_err(sql)?;
        db.busy_timeout(BUSY).map_err(sql)?;
        let version: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql)?;
        let known = MIGRATIONS.len() as i64;
        match version {
            0 => {
                return Err(StoreError::Damaged { path: path.to_owned(), reason: "it is empty".to_owned() });
            }
            v if v == known => {}
            v if v > 0 && v < known => migrate(&mut db, v as usize).map_err(sql)?,
            found => return Err(StoreError::Version { path: path.to_owned(), found, known }),
        }
        db.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
        // The file lives in memory: what survives a crash of the machine is nothing either way.
        db.pragma_update(None, "synchronous", "OFF").map_err(sql)?;
        db.pragma_update(None, "foreign_keys", true).map_err(sql)?;
        Ok(Self { path: path.to_owned(), db })
    }

    fn read(&self) -> rusqlite::Result<State> {
        // One read transaction: the tables are seen as of one moment.
        let tx = self.db.unchecked_transaction()?;
        let instance = tx.prepare_cached("SELECT * FROM instance")?.query_map([], instance)?.next().transpose()?;
        let networks = tx
            .prepare_cached("SELECT * FROM network ORDER BY id")?
            .query_map([], network)?
            .collect::<Result<_, _>>()?;
        let pods = tx.prepare_cached("SELECT * FROM pod ORDER BY id")?.query_map([], pod)?.collect::<Result<_, _>>()?;
        let mut publishes: Vec<PublishRow> = tx
            .prepare_cached("SELECT * FROM publish ORDER BY id")?
            .query_map([], publish)?
            .collect::<Result<_, _>>()?;
        let mut select = tx.prepare_cached("SELECT * FROM backend ORDER BY publish, place")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let of = row.get::<_, i64>("publish")?.cast_unsigned();
            if let Ok(at) = publishes.binary_search_by_key(&of, |p| p.id) {
                publishes[at].backends.push(backend(row)?);
            }
        }
        drop(rows);
        drop(select);
        Ok(State { instance, networks, pods, publishes })
    }
}

impl Store for SqliteStore {
    fn load(&self) -> Result<State, StoreError> {
        self.read().map_err(|e| sqlite_error(&self.path, e))
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

fn migrate(db: &mut Connection, from: usize) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    for (i, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", i as i64 + 1)?;
    }
    tx.commit()
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
    // An update in place, not a replacement: rows that refer to the old one stay.
    match change {
        Change::PutInstance(r) => tx.prepare_cached(
            "INSERT INTO instance (id, host_netns, uplink_word, snat_ports, mtu, uplinks, reserved_ports, phase, host_id,
             nat_profile, tcp_established_s, tcp_transitory_s, udp_s, icmp_s, flows, flows_per_pod)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET host_netns = ?1, uplink_word = ?2, snat_ports = ?3, mtu = ?4, uplinks = ?5,
             reserved_ports = ?6, phase = ?7, host_id = ?8, nat_profile = ?9,
             tcp_established_s = ?10, tcp_transitory_s = ?11, udp_s = ?12, icmp_s = ?13, flows = ?14, flows_per_pod = ?15",
        )?.execute(params![
            r.host_netns,
            r.host.uplink.to_string(),
            r.host.snat_ports.to_string(),
            r.host.mtu,
            words(&r.uplinks),
            r.reserved_ports,
            r.phase.as_str(),
            r.host_id,
            r.nat.profile.as_str(),
            r.nat.timeouts.tcp_established.get(),
            r.nat.timeouts.tcp_transitory.get(),
            r.nat.timeouts.udp.get(),
            r.nat.timeouts.icmp.get(),
            r.nat.flows.get(),
            r.nat.flows_per_pod.map(Flows::get),
        ]),
        Change::PutNetwork(r) => tx.prepare_cached(
            "INSERT INTO network VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (id)
             DO UPDATE SET name = ?2, subnets = ?3, masquerade = ?4, no_masquerade = ?5, mtu = ?6, mtu_bytes = ?7,
             host_access = ?8, last4 = ?9, last6 = ?10, origin = ?11, phase = ?12, snat_address = ?13,
             mapping = ?14, filtering = ?15",
        )?.execute(params![
            r.id,
            r.network.name,
            words(&r.network.subnets),
            r.network.masquerade,
            words(&r.network.no_masquerade),
            r.network.mtu,
            r.mtu_bytes,
            r.host_access,
            r.last4.map(|a| a.to_string()),
            r.last6.map(|a| a.to_string()),
            r.origin.as_str(),
            r.phase.as_str(),
            words(&r.network.snat_address),
            r.network.mapping.as_str(),
            r.network.filtering.as_str(),
        ]),
        Change::PutPod(r) => tx.prepare_cached(
            "INSERT INTO pod VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO UPDATE SET slot = ?2,
             name = ?3, network = ?4, addr4 = ?5, addr6 = ?6, foreign_netns = ?7, origin = ?8, phase = ?9",
        )?.execute(params![
            r.id.cast_signed(),
            r.slot,
            r.name,
            r.network,
            r.addr4.map(|a| a.to_string()),
            r.addr6.map(|a| a.to_string()),
            r.foreign_netns,
            r.origin.as_str(),
            r.phase.as_str(),
        ]),
        Change::PutPublish(r) => {
            tx.prepare_cached(
                "INSERT INTO publish VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET slot = ?2,
                 publish = ?3, affinity = ?4, allow = ?5, draining = ?6, origin = ?7, phase = ?8",
            )?.execute(params![
                r.id.cast_signed(),
                r.index,
                r.publish.to_string(),
                r.affinity.as_str(),
                r.allow.prefixes().map(words),
                r.draining,
                r.origin.as_str(),
                r.phase.as_str(),
            ])?;
            tx.prepare_cached("DELETE FROM backend WHERE publish = ?1")?.execute([r.id.cast_signed()])?;
            let mut insert = tx.prepare_cached("INSERT INTO backend VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (place, b) in r.backends.iter().enumerate() {
                insert.execute(params![r.id.cast_signed(), place as i64, b.pod.cast_signed(), b.weight, b.draining])?;
            }
            Ok(r.backends.len())
        }
        Change::DeleteInstance => tx.prepare_cached("DELETE FROM instance")?.execute([]),
        Change::DeleteNetwork(id) => tx.prepare_cached("DELETE FROM network WHERE id = ?1")?.execute([id]),
        Change::DeletePod(id) => tx.prepare_cached("DELETE FROM pod WHERE id = ?1")?.execute([id.cast_signed()]),
        Change::DeletePublish(id) => tx.prepare_cached("DELETE FROM publish WHERE id = ?1")?.execute([id.cast_signed()]),
    }
    .map(|_| ())
}

fn words<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn instance(r: &Row<'_>) -> rusqlite::Result<InstanceRow> {
    Ok(InstanceRow {
        host_netns: r.get("host_netns")?,
        host_id: r.get("host_id")?,
        host: Host { uplink: parsed(r, "uplink_word")?, snat_ports: parsed(r, "snat_ports")?, mtu: r.get("mtu")? },
        nat: Nat {
            profile: parsed(r, "nat_profile")?,
            timeouts: Timeouts {
                tcp_established: seconds(r, "tcp_established_s")?,
                tcp_transitory: seconds(r, "tcp_transitory_s")?,
                udp: seconds(r, "udp_s")?,
                icmp: seconds(r, "icmp_s")?,
            },
            flows: flows("flows", r.get("flows")?)?,
            flows_per_pod: r.get::<_, Option<u32>>("flows_per_pod")?.map(|n| flows("flows_per_pod", n)).transpose()?,
        },
        uplinks: list(r, "uplinks")?,
        reserved_ports: r.get("reserved_ports")?,
        phase: parsed(r, "phase")?,
    })
}

fn network(r: &Row<'_>) -> rusqlite::Result<NetworkRow> {
    Ok(NetworkRow {
        id: r.get("id")?,
        network: Network {
            name: r.get("name")?,
            subnets: list(r, "subnets")?,
            masquerade: r.get("masquerade")?,
            snat_address: list(r, "snat_address")?,
            mapping: parsed(r, "mapping")?,
            filtering: parsed(r, "filtering")?,
            no_masquerade: list(r, "no_masquerade")?,
            mtu: r.get("mtu")?,
        },
        mtu_bytes: r.get("mtu_bytes")?,
        host_access: r.get("host_access")?,
        last4: optional(r, "last4")?,
        last6: optional(r, "last6")?,
        origin: parsed(r, "origin")?,
        phase: parsed(r, "phase")?,
    })
}

fn pod(r: &Row<'_>) -> rusqlite::Result<PodRow> {
    Ok(PodRow {
        id: r.get::<_, i64>("id")?.cast_unsigned(),
        slot: r.get("slot")?,
        name: r.get("name")?,
        network: r.get("network")?,
        addr4: optional(r, "addr4")?,
        addr6: optional(r, "addr6")?,
        foreign_netns: r.get("foreign_netns")?,
        origin: parsed(r, "origin")?,
        phase: parsed(r, "phase")?,
    })
}

fn publish(r: &Row<'_>) -> rusqlite::Result<PublishRow> {
    Ok(PublishRow {
        id: r.get::<_, i64>("id")?.cast_unsigned(),
        index: r.get("slot")?,
        publish: parsed(r, "publish")?,
        backends: Vec::new(),
        affinity: parsed(r, "affinity")?,
        // Absent is everybody, empty is nobody.
        allow: match r.get::<_, Option<String>>("allow")? {
            None => Allow::Anyone,
            Some(_) => Allow::Only(list(r, "allow")?),
        },
        draining: r.get("draining")?,
        origin: parsed(r, "origin")?,
        phase: parsed(r, "phase")?,
    })
}

fn backend(r: &Row<'_>) -> rusqlite::Result<BackendRow> {
    Ok(BackendRow {
        pod: r.get::<_, i64>("pod")?.cast_unsigned(),
        weight: r.get("weight")?,
        draining: r.get("draining")?,
    })
}

fn conversion<E: std::fmt::Display>(column: &str, value: &str, e: E) -> rusqlite::Error {
    let why = format!("{column} {value:?}: {e}");
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, why.into())
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(r: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = r.get(column)?;
    text.parse().map_err(|e| conversion(column, &text, e))
}

fn seconds(r: &Row<'_>, column: &str) -> rusqlite::Result<Seconds> {
    let number: u32 = r.get(column)?;
    Seconds::new(number).map_err(|e| conversion(column, &number.to_string(), e))
}

fn flows(column: &str, number: u32) -> rusqlite::Result<Flows> {
    Flows::new(number).map_err(|e| conversion(column, &number.to_string(), e))
}

fn optional<T: FromStr<Err: std::fmt::Display>>(r: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = r.get(column)?;
    text.map(|t| t.parse().map_err(|e| conversion(column, &t, e))).transpose()
}

fn list<T: FromStr<Err: std::fmt::Display>>(r: &Row<'_>, column: &str) -> rusqlite::Result<Vec<T>> {
    let text: String = r.get(column)?;
    text.split_whitespace().map(|w| w.parse().map_err(|e| conversion(column, w, e))).collect()
}

/// Words of an enum in the file.
macro_rules! words {
    ($t:ident { $($variant:ident = $word:literal),+ }) => {
        impl $t {
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $t {
            type Err = &'static str;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                match s { $($word => Ok(Self::$variant),)+ _ => Err("unknown word") }
            }
        }
    };
}

words!(Origin { File = "file", Verb = "verb" });
words!(Phase { Creating = "creating", Ready = "ready", Deleting = "deleting", Resetting = "resetting", Switching = "switching" });
