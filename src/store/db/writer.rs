//! The one connection that writes, and whose turn it is.
//!
//! Not in a pool: a pool asks a connection whether it is still there whenever it is taken and given back, and each of that is
//! a way to SQLite's thread and back, which every commit would wait for. Those who wait for the connection get it in the
//! order in which they came; only the writer of the book stands in no line, and waits for one of them at most. Whoever cannot
//! come to a decision because there is always another change can hold the line back for a moment.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Weak},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool,
    sqlite::{SqliteConnectOptions, SqliteConnection},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock},
    time::timeout,
};

use super::{
    WAIT,
    postgres::{self, Gate, Server, patiently},
};

/// A connection that can write.
#[derive(Debug)]
pub(super) enum Wire {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// How one is made.
#[derive(Clone, Debug)]
pub(super) enum Maker {
    Sqlite(Box<SqliteConnectOptions>),
    Postgres(Server),
}

/// The connection, or what is instead of it.
#[derive(Debug)]
enum Place {
    Open(Wire),
    /// It had to be thrown away; the next one in turn opens another.
    Empty,
    /// The database is closed.
    Closed,
}

/// The one connection that writes.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    maker: Maker,
    place: Arc<Mutex<Place>>,
    /// Written by who is next, read by those who hold the line back: many may at a time.
    line: Arc<RwLock<()>>,
    /// Where the lines of several processes become one.
    gates: Option<PgPool>,
    /// Through which this process holds them back.
    holding: Arc<Mutex<Weak<Gate>>>,
}

/// While this is kept, nobody comes to the connection who stands in line, here or in another process on the same PostgreSQL.
#[derive(Debug)]
pub struct Held {
    _line: OwnedRwLockReadGuard<()>,
    _gate: Option<Arc<Gate>>,
}

/// The connection, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Turn {
    place: Option<OwnedMutexGuard<Place>>,
    /// Whether its unit of work has ended as it should.
    pub(super) ended: bool,
    /// Through which it came to the connection.
    gate: Option<Gate>,
    /// How long a statement may take.
    pub(super) patience: Duration,
}

impl Writer {
    pub(super) async fn open(maker: Maker) -> Result<Self, sqlx::Error> {
        let place = Arc::new(Mutex::new(Place::Open(maker.make().await?)));
        let gates = match &maker {
            Maker::Sqlite(_) => None,
            Maker::Postgres(server) => Some(server.gates()),
        };
        Ok(Self { maker, place, line: Arc::default(), gates, holding: Arc::default() })
    }

    /// Waits for the connection, but not for long.
    pub(super) async fn turn(&self) -> Result<Turn, sqlx::Error> {
        let Some(gates) = &self.gates else {
            return self.take(self.first_in_line()).await;
        };
        patiently(WAIT, async {
            let next = self.line.write().await;
            let gate = Gate::pass(gates).await?;
            let mut turn = self.take(Arc::clone(&self.place).lock_owned()).await?;
            turn.gate = Some(gate);
            drop(next);
            Ok(turn)
        })
        .await
    }

    async fn first_in_line(&self) -> OwnedMutexGuard<Place> {
        let _next = self.line.write().await;
        Arc::clone(&self.place).lock_owned().await
    }

    /// The same ahead of the line.
    pub(super) async fn turn_ahead(&self) -> Result<Turn, sqlx::Error> {
        self.take(Arc::clone(&self.place).lock_owned()).await
    }

    /// Waits for its place in the line, and holds back who comes behind.
    pub(super) async fn hold(&self) -> Result<Held, sqlx::Error> {
        let hold = async {
            let line = Arc::clone(&self.line).read_owned().await;
            let gate = match &self.gates {
                Some(gates) => Some(self.held_gate(gates).await?),
                None => None,
            };
            Ok(Held { _line: line, _gate: gate })
        };
        timeout(WAIT, hold).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// One for all who hold at the same time.
    async fn held_gate(&self, gates: &PgPool) -> Result<Arc<Gate>, sqlx::Error> {
        let mut holding = self.holding.lock().await;
        if let Some(gate) = holding.upgrade() {
            return Ok(gate);
        }
        let gate = Arc::new(Gate::hold(gates).await?);
        *holding = Arc::downgrade(&gate);
        Ok(gate)
    }

    async fn take(&self, place: impl Future<Output = OwnedMutexGuard<Place>>) -> Result<Turn, sqlx::Error> {
        let open = async {
            let mut place = place.await;
            match *place {
                Place::Open(_) => {}
                Place::Empty => *place = Place::Open(Box::pin(self.maker.make()).await?),
                Place::Closed => return Err(sqlx::Error::PoolClosed),
            }
            Ok(Turn { place: Some(place), ended: false, gate: None, patience: postgres::PATIENCE })
        };
        timeout(WAIT, open).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Waits for whoever has it, and closes it for good.
    pub(super) async fn close(&self) {
        if let Some(gates) = &self.gates {
            gates.close().await;
        }
        let place = std::mem::replace(&mut *self.place.lock().await, Place::Closed);
        if let Place::Open(wire) = place
            && let Err(error) = wire.close().await
        {
            tracing::warn!(%error, "the database could not be closed in good order");
        }
    }
}

impl Deref for Turn {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        match self.place.as_deref() {
            Some(Place::Open(wire)) => wire,
            _ => unreachable!("a turn has an open connection until it is dropped"),
        }
    }
}

impl DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Wire {
        match self.place.as_deref_mut() {
            Some(Place::Open(wire)) => wire,
            _ => unreachable!("a turn has an open connection until it is dropped"),
        }
    }
}

impl Drop for Turn {
    /// Nobody gets the connection before what was begun is undone.
    fn drop(&mut self) {
        let Some(mut place) = self.place.take().filter(|_| !self.ended) else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let Place::Open(wire) = &mut *place else { return };
                if !wire.is_clean().await {
                    *place = Place::Empty;
                }
            })),
            // At the end of the program: closing undoes it, too.
            Err(_) => *place = Place::Empty,
        }
    }
}

impl Maker {
    async fn make(&self) -> Result<Wire, sqlx::Error> {
        match self {
            Self::Sqlite(options) => options.connect().await.map(Wire::Sqlite),
            Self::Postgres(server) => server.connect().await.map(Wire::Postgres),
        }
    }
}

impl Wire {
    /// Leaves the transaction, if there still is one; a connection that cannot be cleaned is thrown away. Not left to the
    /// library: SQLite ends a transaction by itself when the disk is full, and the library then believes for ever that it is
    /// inside one.
    async fn is_clean(&mut self) -> bool {
        match self {
            Self::Sqlite(connection) => match sqlx::query("rollback").execute(connection).await {
                Ok(_) => true,
                Err(error) => error.to_string().contains("no transaction is active"),
            },
            Self::Postgres(connection) => postgres::rollback(connection).await,
        }
    }

    async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        }
    }
}
