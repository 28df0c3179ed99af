//! Connections of a node, with what happened to their paths and when.

use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use iroh::endpoint::{Connection, ConnectionError, PathEvent, Side};
use n0_future::StreamExt;
use serde_json::{Value, json};

use super::{facts, now, tell};

pub struct Held {
    pub number: u64,
    /// When the connection was complete.
    pub complete: f64,
    conn: Connection,
    /// When which address was selected, the newest last.
    selections: Mutex<Vec<(f64, String)>>,
    end: Mutex<Option<(f64, ConnectionError)>>,
}

impl Held {
    pub fn new(number: u64, conn: Connection) -> Arc<Self> {
        let side = match conn.side() {
            Side::Client => "connected",
            Side::Server => "accepted",
        };
        let held = Arc::new(Self {
            number,
            complete: now(),
            conn,
            selections: Mutex::default(),
            end: Mutex::default(),
        });
        tell(
            side,
            json!({"conn": number, "remote": held.conn.remote_id().to_string(), "t": held.complete}),
        );
        tokio::spawn(held.clone().watch());
        held
    }

    pub fn conn(&self) -> &Connection {
        &self.conn
    }

    async fn watch(self: Arc<Self>) {
        let mut events = self.conn.path_events();
        for path in self.conn.paths().iter() {
            self.happened("opened", &path.id().to_string(), path.remote_addr());
            if path.is_selected() {
                self.happened("selected", &path.id().to_string(), path.remote_addr());
            }
        }
        while let Some(event) = events.next().await {
            match event {
                PathEvent::Opened {
                    id, remote_addr, ..
                } => self.happened("opened", &id.to_string(), &remote_addr),
                PathEvent::Closed {
                    id, remote_addr, ..
                } => self.happened("closed", &id.to_string(), &remote_addr),
                PathEvent::Selected {
                    id, remote_addr, ..
                } => self.happened("selected", &id.to_string(), &remote_addr),
                other => tell(
                    "lagged",
                    json!({"conn": self.number, "what": format!("{other:?}")}),
                ),
            }
        }
        let reason = self.conn.closed().await;
        tell(
            "closed",
            json!({"conn": self.number, "kind": facts::kind_of_end(&reason),
                   "reason": reason.to_string()}),
        );
        *self.end.lock().expect("no panic") = Some((now(), reason));
    }

    fn happened(&self, what: &str, id: &str, remote: &iroh::TransportAddr) {
        let (t, remote) = (now(), facts::address(remote));
        if what == "selected" {
            let mut selections = self.selections.lock().expect("no panic");
            selections.push((t, remote.clone()));
        }
        tell(
            "path",
            json!({"conn": self.number, "what": what, "id": id, "kind": facts::kind(&remote),
                   "remote": remote, "t": t}),
        );
    }

    pub fn describe(&self) -> Value {
        let end = self.end.lock().expect("no panic");
        let side = match self.conn.side() {
            Side::Client => "client",
            Side::Server => "server",
        };
        json!({"conn": self.number, "remote": self.conn.remote_id().to_string(), "side": side,
               "t": self.complete, "closed": end.as_ref().map(|(_, reason)| reason.to_string())})
    }

    pub fn paths(&self) -> Value {
        self.conn.paths().iter().map(|p| facts::path(&p)).collect()
    }

    /// Wait until a path of a kind is the selected one.
    pub async fn selected(&self, kind: &str, prefix: &str, other_than: &[String]) -> Result<Value> {
        let mut snapshots = self.conn.paths_stream();
        while let Some(snapshot) = snapshots.next().await {
            let found = snapshot
                .iter()
                .filter(|path| path.is_selected())
                .find_map(|path| {
                    let remote = facts::address(path.remote_addr());
                    let is_kind = facts::kind(&remote).starts_with(kind);
                    let matches =
                        is_kind && remote.starts_with(prefix) && !other_than.contains(&remote);
                    matches.then(|| (remote, facts::path(&path)))
                });
            if let Some((remote, path)) = found {
                let t = self.selected_at(&remote);
                return Ok(json!({"path": path, "t": t, "since": t - self.complete}));
            }
        }
        Err(match self.conn.close_reason() {
            Some(reason) => reason.into(),
            None => anyhow!("the paths have ended"),
        })
    }

    /// When an address was selected last: its event comes before or after the snapshot that shows it.
    fn selected_at(&self, remote: &str) -> f64 {
        let selections = self.selections.lock().expect("no panic");
        let last = selections.last().filter(|(_, selected)| selected == remote);
        last.map_or_else(now, |(t, _)| *t)
    }

    pub async fn ended(&self) -> Result<Value> {
        let reason = self.conn.closed().await;
        let known = self.end.lock().expect("no panic").as_ref().map(|(t, _)| *t);
        Ok(
            json!({"t": known.unwrap_or_else(now), "kind": facts::kind_of_end(&reason),
                  "reason": reason.to_string()}),
        )
    }
}
