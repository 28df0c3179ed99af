//! BitTorrent's DHT: nodes of one of our own, what they have, and the lookup service of endpoints.

use anyhow::Result;
use clap::Args;
use iroh::{EndpointId, address_lookup::AddrFilter};
use iroh_mainline_address_lookup::{Builder, DhtAddressLookup};
use n0_future::StreamExt;
use n0_mainline::{Dht, DhtBuilder, Testnet};
use serde_json::json;

use crate::say;

#[derive(Args, Default)]
pub struct Options {
    /// Publish to, and look up in, the DHT of this node (address:port).
    #[arg(long)]
    dht: Vec<String>,
}

impl Options {
    /// The service that was asked for; it publishes all addresses.
    pub fn service(&self) -> Option<Builder> {
        if self.dht.is_empty() {
            return None;
        }
        let mut builder = DhtBuilder::default();
        builder.bootstrap(&self.dht);
        Some(
            DhtAddressLookup::builder()
                .dht_builder(builder)
                .addr_filter(AddrFilter::unfiltered()),
        )
    }
}

#[derive(Args)]
pub struct Nodes {
    #[arg(long, default_value_t = 10)]
    nodes: usize,
}

impl Nodes {
    /// A DHT of its own, until the process is ended.
    pub async fn run(&self) -> Result<()> {
        let net = Testnet::new(self.nodes).await?;
        say(json!({"event": "dht", "bootstrap": net.bootstrap, "nodes": net.nodes.len()}));
        std::future::pending::<()>().await;
        Ok(())
    }
}

#[derive(Args)]
pub struct Get {
    /// Nodes to begin with.
    #[arg(long)]
    bootstrap: Vec<String>,
    #[arg(long)]
    id: EndpointId,
}

impl Get {
    /// Every item that a search brings.
    pub async fn run(&self) -> Result<()> {
        let dht = Dht::builder().bootstrap(&self.bootstrap).build()?;
        dht.bootstrapped().await?;
        let mut items = dht.get_mutable(self.id.as_bytes(), None, None).await?;
        while let Some(item) = items.next().await {
            say(json!({
                "event": "item",
                "key": hex(item.key()),
                "seq": item.seq(),
                "signature": hex(item.signature()),
                "value": hex(item.value()),
            }));
        }
        say(json!({"event": "end"}));
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
