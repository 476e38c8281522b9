use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::task::JoinHandle;

use super::network::PodNetwork;
use super::targets::AGENT_PORT;
use crate::{Doing, Error, http_probe, istio_metrics};

/// Istio leaves it alone for tunnels, which no sidecar here has: a connection to it from outside
/// is not redirected to the proxy.
pub(crate) const PORT: u16 = 15008;

/// A sidecar's metrics with Istio's names, for whoever reads them from the pod itself.
pub(super) struct Exposition(JoinHandle<()>);

impl Exposition {
    pub(super) async fn serve(network: &PodNetwork) -> Result<Self, Error> {
        let (holder, address) = (network.holder(), network.address());
        let listener = tokio::task::spawn_blocking(move || listen_within(holder)).await;
        let listener = listener.doing("listening in a pod's network")??;
        let listener =
            tokio::net::TcpListener::from_std(listener).doing("listening in a pod's network")?;
        let routes = Router::new().route("/stats/prometheus", get(move || renamed(address)));
        // An error means that the pod's network has gone.
        Ok(Self(tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        })))
    }
}

impl Drop for Exposition {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A listener in the network of this process. It stays there, whoever uses it.
fn listen_within(process: u32) -> Result<TcpListener, Error> {
    let doing = "listening in a pod's network";
    let network = std::fs::File::open(format!("/proc/{process}/ns/net")).doing(doing)?;
    // A thread of its own, which ends there.
    let listen = move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(std::io::Error::from)?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    let listened = std::thread::spawn(listen).join();
    listened.map_err(|_| Error::new(doing))?.doing(doing)
}

async fn renamed(pod: Ipv4Addr) -> (StatusCode, String) {
    match http_probe::get_at((pod, AGENT_PORT).into(), "/stats/prometheus").await {
        Ok((200, text)) => (StatusCode::OK, istio_metrics::renamed(&text)),
        Ok((status, text)) => (StatusCode::BAD_GATEWAY, format!("{status} {text}")),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}
