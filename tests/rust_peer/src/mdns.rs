//! mDNS as others use it: an endpoint that finds others on the local network and is found there.

use anyhow::{Result, anyhow};
use clap::Args;
use iroh::{Endpoint, EndpointId, endpoint_info::UserData};
use iroh_mdns_address_lookup::{DiscoveryEvent, MdnsAddressLookup};
use n0_future::StreamExt;
use serde_json::json;

use crate::say;

#[derive(Args, Default)]
pub struct Options {
    /// Find others on the local network and be found there; tells who comes and goes.
    #[arg(long)]
    mdns: bool,
    #[arg(long, default_value = "irohv1")]
    mdns_service: String,
    /// Find others without being found.
    #[arg(long)]
    mdns_quiet: bool,
    /// What is published besides addresses.
    #[arg(long)]
    user_data: Option<String>,
}

impl Options {
    pub fn user_data(&self) -> Result<Option<UserData>> {
        let parse = |text: &String| text.parse().map_err(|error| anyhow!("user data: {error}"));
        self.user_data.as_ref().map(parse).transpose()
    }

    /// Join, and tell from then on; nothing without `--mdns`.
    pub async fn join(&self, endpoint: &Endpoint) -> Result<()> {
        if !self.mdns {
            return Ok(());
        }
        let mdns = MdnsAddressLookup::builder()
            .service_name(self.mdns_service.clone())
            .advertise(!self.mdns_quiet)
            .build(endpoint.id())?;
        let mut events = mdns.subscribe().await;
        endpoint.address_lookup()?.add(mdns);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    DiscoveryEvent::Discovered { endpoint_info, .. } => say(json!({
                        "event": "discovered",
                        "id": endpoint_info.endpoint_id.to_string(),
                        "addrs": endpoint_info.ip_addrs().map(|a| a.to_string()).collect::<Vec<_>>(),
                        "relays": endpoint_info.relay_urls().map(|r| r.to_string()).collect::<Vec<_>>(),
                        "user_data": endpoint_info.user_data().map(AsRef::<str>::as_ref),
                    })),
                    DiscoveryEvent::Expired { endpoint_id } => expired(endpoint_id),
                    _ => {}
                }
            }
        });
        Ok(())
    }
}

fn expired(id: EndpointId) {
    say(json!({"event": "expired", "id": id.to_string()}));
}
