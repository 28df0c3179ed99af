//! A node of the lab of networks: an endpoint driven by lines of JSON on stdin, side by side and
//! answered in any order. The protocol is described in `tests/lab/node.py`, which is the same of
//! iroh_fast.

mod facts;
mod held;
mod traffic;

use std::{
    collections::HashMap,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, RelayConfig, RelayUrl, TransportAddr, Watcher,
    endpoint::{Connection, ConnectionError, NetReportConfig, PortmapperConfig},
};
use iroh_relay::RelayQuicConfig;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use held::Held;
use traffic::Ticker;

const ALPN: &[u8] = b"iroh-lab/1";

/// A second of CLOCK_MONOTONIC, which all processes of a machine share.
pub fn now() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes into a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

pub fn tell(event: &str, mut facts: Value) {
    facts["event"] = event.into();
    if facts.get("t").is_none() {
        facts["t"] = now().into();
    }
    crate::say(facts);
}

/// A failure with the name that the protocol has for it.
#[derive(Debug)]
struct Named(&'static str, String);

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.1)
    }
}

impl std::error::Error for Named {}

fn name_of(error: &anyhow::Error) -> &'static str {
    for cause in error.chain() {
        if let Some(named) = cause.downcast_ref::<Named>() {
            return named.0;
        }
        if let Some(lost) = cause.downcast_ref::<ConnectionError>() {
            return facts::kind_of_end(lost);
        }
    }
    "Error"
}

/// The arguments of a request.
pub struct Asked(Value);

impl Asked {
    fn text(&self, name: &str) -> Option<&str> {
        self.0[name].as_str()
    }
    fn number(&self, name: &str) -> Option<f64> {
        self.0[name].as_f64()
    }
    fn count(&self, name: &str) -> Option<u64> {
        self.0[name].as_u64()
    }
    fn flag(&self, name: &str, otherwise: bool) -> bool {
        self.0[name].as_bool().unwrap_or(otherwise)
    }
    fn texts<T: FromStr>(&self, name: &str) -> Result<Vec<T>>
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let list = self.0[name].as_array().map(Vec::as_slice).unwrap_or(&[]);
        list.iter()
            .map(|item| {
                let text = item.as_str().ok_or_else(|| anyhow!("{name}: {item}"))?;
                T::from_str(text).with_context(|| format!("{name}: {text}"))
            })
            .collect()
    }
    fn timeout(&self, otherwise: f64) -> Duration {
        Duration::from_secs_f64(self.number("timeout").unwrap_or(otherwise))
    }
}

#[derive(Default)]
struct Node {
    endpoint: OnceLock<Endpoint>,
    held: Mutex<Vec<Arc<Held>>>,
    tickers: Mutex<HashMap<u64, Ticker>>,
}

pub async fn run() -> Result<()> {
    let node = Arc::new(Node::default());
    tell(
        "ready",
        json!({"kind": "rust", "version": env!("CARGO_PKG_VERSION"), "iroh": "1.4.1"}),
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let asked = Asked(serde_json::from_str(&line)?);
        let node = node.clone();
        tokio::spawn(async move {
            let answer = match node.answer(&asked).await {
                Ok(mut answer) => {
                    answer.insert("ok".into(), true.into());
                    answer
                }
                Err(error) => Map::from_iter([
                    ("ok".into(), false.into()),
                    ("kind".into(), name_of(&error).into()),
                    ("error".into(), format!("{error:#}").into()),
                ]),
            };
            let mut answer = Value::Object(answer);
            answer["n"] = asked.0["n"].clone();
            crate::say(answer);
        });
    }
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Named("Timeout", format!("not within {limit:?}")).into()),
    }
}

fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => bail!("no object: {other}"),
    }
}

impl Node {
    fn endpoint(&self) -> Result<&Endpoint> {
        self.endpoint.get().ok_or_else(|| anyhow!("not bound"))
    }

    fn held(&self, asked: &Asked) -> Result<Arc<Held>> {
        let number = asked.count("conn").unwrap_or(1);
        let held = self.held.lock().expect("no panic");
        held.get((number as usize).wrapping_sub(1))
            .cloned()
            .ok_or_else(|| anyhow!("no connection {number}"))
    }

    async fn answer(self: &Arc<Self>, asked: &Asked) -> Result<Map<String, Value>> {
        let what = asked.text("cmd").unwrap_or_default();
        let answer = match what {
            "bind" => self.bind(asked).await?,
            "online" => within(asked.timeout(30.0), self.online()).await?,
            "addr" => facts::addr(&self.endpoint()?.addr()),
            "connect" => within(asked.timeout(30.0), self.connect(asked)).await?,
            "conns" => {
                let held = self.held.lock().expect("no panic");
                json!({"conns": held.iter().map(|held| held.describe()).collect::<Vec<_>>()})
            }
            "ping" => {
                let bytes = asked.count("bytes").unwrap_or(8);
                let (held, started) = (self.held(asked)?, Instant::now());
                within(asked.timeout(10.0), traffic::echo(held.conn(), bytes)).await?;
                json!({"took": started.elapsed().as_secs_f64()})
            }
            "paths" => json!({"paths": self.held(asked)?.paths()}),
            "wait_path" | "wait_direct" => {
                let kind = match what {
                    "wait_direct" => "ip",
                    _ => asked.text("kind").unwrap_or("ip"),
                };
                let prefix = asked.text("prefix").unwrap_or_default();
                let other_than = asked.texts::<String>("other_than")?;
                let held = self.held(asked)?;
                within(
                    asked.timeout(15.0),
                    held.selected(kind, prefix, &other_than),
                )
                .await?
            }
            "wait_closed" => {
                let held = self.held(asked)?;
                within(asked.timeout(60.0), held.ended()).await?
            }
            "bulk" => within(asked.timeout(120.0), self.bulk(asked)).await?,
            "ticker" => {
                let interval = Duration::from_secs_f64(asked.number("interval").unwrap_or(0.05));
                let ticker = Ticker::start(self.held(asked)?.conn(), interval).await?;
                let mut tickers = self.tickers.lock().expect("no panic");
                let number = tickers.len() as u64 + 1;
                tickers.insert(number, ticker);
                json!({"ticker": number})
            }
            "ticker_stop" => self.stop_ticker(asked).await?,
            "close_conn" => {
                let code = asked.count("code").unwrap_or(0) as u32;
                let reason = asked.text("reason").unwrap_or_default().as_bytes();
                self.held(asked)?.conn().close(code.into(), reason);
                json!({})
            }
            _ => self.of_endpoint(what, asked).await?,
        };
        object(answer)
    }

    async fn of_endpoint(self: &Arc<Self>, what: &str, asked: &Asked) -> Result<Value> {
        let unsupported = || Err(Named("Unsupported", format!("no command {what:?}")).into());
        if what == "process" {
            return facts::process();
        }
        if what == "why" {
            return unsupported();
        }
        let endpoint = self.endpoint()?;
        Ok(match what {
            "network_change" => {
                endpoint.network_change().await;
                json!({})
            }
            "relay_insert" => {
                let url = RelayUrl::from_str(asked.text("url").unwrap_or_default())?;
                let config = RelayConfig::new(url.clone(), quic(asked));
                endpoint.insert_relay(url, Arc::new(config)).await;
                json!({})
            }
            "relay_remove" => {
                let url = RelayUrl::from_str(asked.text("url").unwrap_or_default())?;
                endpoint.remove_relay(&url).await;
                json!({})
            }
            "report" => {
                let mut reports = endpoint.net_report();
                let limit = asked.timeout(10.0);
                let first = tokio::time::timeout(limit, reports.initialized()).await;
                json!({"report": first.ok().map(|report| facts::report(&report))})
            }
            "metrics" => json!({"counters": facts::counters(endpoint)}),
            "remote_info" => {
                let of = EndpointId::from_str(asked.text("of").unwrap_or_default())?;
                json!({"addrs": facts::remote(endpoint, of).await})
            }
            "close" => {
                let started = Instant::now();
                endpoint.close().await;
                json!({"took": started.elapsed().as_secs_f64()})
            }
            _ => return unsupported(),
        })
    }

    async fn bind(self: &Arc<Self>, asked: &Asked) -> Result<Value> {
        let options = crate::Options {
            secret: asked.text("secret").map(str::to_owned),
            bind: asked.texts("bind_addrs")?,
            relay: asked.texts("relays")?,
            qad_port: asked.count("qad_port").unwrap_or(7842) as u16,
            relay_only: !asked.flag("ip", true),
            ca_pem: asked.text("ca").map(PathBuf::from),
            ..Default::default()
        };
        let mut builder = options.builder(vec![ALPN.to_vec()])?;
        for addr in asked.texts("external")? {
            builder = builder.external_addr(addr);
        }
        if !asked.flag("portmapper", false) {
            builder = builder.portmapper_config(PortmapperConfig::Disabled);
        }
        if !asked.flag("net_report", true) {
            builder = builder.net_report_config(NetReportConfig::minimal());
        }
        let endpoint = builder.bind().await?;
        if self.endpoint.set(endpoint.clone()).is_err() {
            bail!("already bound");
        }
        tokio::spawn(self.clone().accept(endpoint.clone()));
        facts::follow(&endpoint);
        let sockets = endpoint.bound_sockets();
        Ok(json!({
            "id": endpoint.id().to_string(),
            "sockets": sockets.iter().map(|addr| addr.to_string()).collect::<Vec<_>>(),
        }))
    }

    async fn accept(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let node = self.clone();
            tokio::spawn(async move {
                match incoming.await {
                    Ok(conn) => {
                        node.hold(conn);
                    }
                    Err(error) => tell("refused", json!({"error": format!("{error:#}")})),
                }
            });
        }
    }

    fn hold(&self, conn: Connection) -> Arc<Held> {
        let mut all = self.held.lock().expect("no panic");
        let held = Held::new(all.len() as u64 + 1, conn.clone());
        all.push(held.clone());
        drop(all);
        tokio::spawn(traffic::serve(conn));
        held
    }

    async fn online(&self) -> Result<Value> {
        let endpoint = self.endpoint()?;
        endpoint.online().await;
        let status = endpoint.home_relay_status().get();
        let home = status.iter().find(|status| status.is_connected());
        Ok(json!({"relay": home.map(|home| home.url().to_string()), "connected": home.is_some()}))
    }

    async fn connect(&self, asked: &Asked) -> Result<Value> {
        let to = EndpointId::from_str(asked.text("to").unwrap_or_default())?;
        let ips = asked.texts("ips")?.into_iter().map(TransportAddr::Ip);
        let relays = asked.texts("relays")?.into_iter();
        let addr = EndpointAddr::new(to).with_addrs(ips.chain(relays.map(TransportAddr::Relay)));
        let started = Instant::now();
        let conn = self.endpoint()?.connect(addr, ALPN).await?;
        let took = started.elapsed().as_secs_f64();
        let held = self.hold(conn);
        Ok(json!({"conn": held.number, "took": took, "t": held.complete}))
    }

    async fn bulk(&self, asked: &Asked) -> Result<Value> {
        let held = self.held(asked)?;
        let bytes = asked.count("bytes").ok_or_else(|| anyhow!("bytes"))?;
        let streams = asked.count("streams").unwrap_or(1);
        let way = traffic::Way::from_str(asked.text("way").unwrap_or("echo"))?;
        traffic::bulk(held.conn(), way, bytes, streams).await
    }

    async fn stop_ticker(&self, asked: &Asked) -> Result<Value> {
        let number = asked.count("ticker").unwrap_or(1);
        let ticker = self.tickers.lock().expect("no panic").remove(&number);
        let ticker = ticker.ok_or_else(|| anyhow!("no ticker {number}"))?;
        Ok(ticker.stop(asked.timeout(10.0)).await)
    }
}

fn quic(asked: &Asked) -> Option<RelayQuicConfig> {
    let port = asked.count("qad_port").unwrap_or(7842) as u16;
    (port != 0).then(|| RelayQuicConfig::new(port))
}

/// Follow a watched value with a closure, to the end of the endpoint.
fn each<W: Watcher + Send + 'static>(
    mut watcher: W,
    mut told: impl FnMut(W::Value) + Send + 'static,
) where
    W::Value: Send,
{
    tokio::spawn(async move {
        told(watcher.get());
        while let Ok(value) = watcher.updated().await {
            told(value);
        }
    });
}
