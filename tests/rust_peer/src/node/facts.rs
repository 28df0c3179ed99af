//! What a node knows, in the words of the protocol.

use anyhow::{Result, anyhow};
use iroh::{
    Endpoint, EndpointAddr, EndpointId, TransportAddr,
    endpoint::{ConnectionError, Path},
    unstable_net_report::NetReport,
};
use iroh_metrics::{MetricValue, MetricsGroupSet};
use serde_json::{Map, Value, json};

use super::{each, tell};

pub fn address(addr: &TransportAddr) -> String {
    match addr {
        TransportAddr::Ip(addr) => addr.to_string(),
        TransportAddr::Relay(url) => format!("relay:{url}"),
        other => format!("custom:{other:?}"),
    }
}

pub fn kind(address: &str) -> &'static str {
    match address {
        _ if address.starts_with("relay:") => "relay",
        _ if address.starts_with("custom:") => "custom",
        _ if address.starts_with('[') => "ip6",
        _ => "ip4",
    }
}

/// The names that iroh_fast has for the ends of a connection.
pub fn kind_of_end(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::TimedOut => "TimedOut",
        ConnectionError::ApplicationClosed(_) => "ApplicationClosed",
        ConnectionError::ConnectionClosed(_) => "PeerAborted",
        ConnectionError::TransportError(_) => "TransportViolation",
        ConnectionError::LocallyClosed => "LocallyClosed",
        ConnectionError::Reset => "Reset",
        ConnectionError::VersionMismatch => "VersionMismatch",
        ConnectionError::CidsExhausted => "CidsExhausted",
    }
}

pub fn path(path: &Path<'_>) -> Value {
    let (stats, remote) = (path.stats(), address(path.remote_addr()));
    // The type of a local address has no public name, its text has a fixed form.
    let local = format!("{:?}", path.local_addr());
    let local = local
        .strip_prefix("Ip(Some(")
        .and_then(|text| text.strip_suffix("))"));
    json!({
        "id": path.id().to_string(),
        "kind": kind(&remote),
        "remote": remote,
        "local": local,
        "selected": path.is_selected(),
        "status": null,
        "rtt": path.rtt().as_secs_f64(),
        "mtu": stats.current_mtu,
        "tx": stats.udp_tx.bytes,
        "rx": stats.udp_rx.bytes,
        "lost": stats.lost_packets,
    })
}

pub fn addr(addr: &EndpointAddr) -> Value {
    json!({
        "id": addr.id.to_string(),
        "relays": addr.relay_urls().map(|url| url.to_string()).collect::<Vec<_>>(),
        "ips": addr.ip_addrs().map(|addr| addr.to_string()).collect::<Vec<_>>(),
    })
}

pub fn report(report: &NetReport) -> Value {
    serde_json::to_value(report).unwrap_or_else(|_| json!({"text": format!("{report:?}")}))
}

pub fn counters(endpoint: &Endpoint) -> Value {
    let metrics = endpoint.metrics();
    let counters = MetricsGroupSet::iter(metrics).filter_map(|(group, item)| {
        let value: Value = match item.value() {
            MetricValue::Counter(value) => value.into(),
            MetricValue::Gauge(value) => value.into(),
            _ => return None,
        };
        Some((format!("{group}:{}", item.name()), value))
    });
    Value::Object(Map::from_iter(counters))
}

pub async fn remote(endpoint: &Endpoint, of: EndpointId) -> Value {
    let Some(info) = endpoint.remote_info(of).await else {
        return Value::Null;
    };
    info.addrs()
        .map(|known| {
            let usage = format!("{:?}", known.usage()).to_lowercase();
            json!({"addr": address(known.addr()), "usage": usage})
        })
        .collect()
}

/// Tell of changes of the own address and of the home relay.
pub fn follow(endpoint: &Endpoint) {
    each(endpoint.watch_addr(), |addr| {
        let mut facts = self::addr(&addr);
        facts.as_object_mut().map(|facts| facts.remove("id"));
        tell("addr", facts);
    });
    each(endpoint.home_relay_status(), |relays| {
        let home = relays.first();
        let state = match home {
            None => json!(null),
            Some(home) if home.is_connected() => json!("connected"),
            Some(home) => json!(
                home.last_error()
                    .map_or("connecting".into(), |error| format!("{error:#}"))
            ),
        };
        tell(
            "home",
            json!({"relay": home.map(|home| home.url().to_string()), "state": state}),
        );
    });
}

pub fn process() -> Result<Value> {
    let entries = |name: &str| std::fs::read_dir(name).map(Iterator::count);
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).ok_or_else(|| anyhow!("statm"))?;
    Ok(json!({
        "tasks": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "fds": entries("/proc/self/fd")?,
        "threads": entries("/proc/self/task")?,
        "rss": pages.parse::<u64>()? * 4096,
        "cpu": crate::bench::cpu_s(),
    }))
}
