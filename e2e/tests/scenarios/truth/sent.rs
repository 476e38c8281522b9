//! What istiod sends, read as what it means on the wire.

use std::collections::BTreeMap;

use meshrollout_core::call::Bytes;
use meshrollout_core::client_tls::Wire;
use meshrollout_core::mode::Mode;
use serde_json::Value;

/// What one proxy is sent.
pub(crate) struct Sent(pub(crate) Value);

impl Sent {
    /// The mode that the inbound listener comes to on a container port; with `None`, on a port
    /// that neither a Service nor a policy names.
    pub(crate) fn mode(&self, port: Option<u16>) -> Result<Mode, String> {
        let chains = self.0["inbound"]["filterChains"].as_array().ok_or("no filter chains")?;
        let on = |chain: &&Value, port: Option<u16>| {
            chain["filterChainMatch"]["destinationPort"].as_u64() == port.map(u64::from)
        };
        let mut here: Vec<_> = chains.iter().filter(|chain| on(chain, port)).collect();
        if here.is_empty() {
            here = chains.iter().filter(|chain| on(chain, None)).collect();
        }
        let mutual = here.iter().any(|chain| {
            chain["transportSocket"]["typedConfig"]["requireClientCertificate"] == true
        });
        let plain = here.iter().any(|chain| {
            chain["transportSocket"].is_null()
                && chain["filterChainMatch"]["transportProtocol"] != "tls"
        });
        match (mutual, plain) {
            (true, false) => Ok(Mode::Strict),
            (true, true) => Ok(Mode::Permissive),
            (false, true) => Ok(Mode::Disable),
            (false, false) => Err(format!("nothing is let in: {here:?}")),
        }
    }

    /// The outbound clusters, by their names.
    pub(crate) fn clusters(&self) -> BTreeMap<&str, &Value> {
        let all = self.0["clusters"].as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter_map(|one| Some((one["name"].as_str()?, one))).collect()
    }

    /// The endpoints of a cluster: address, and whether they announce mutual TLS.
    pub(crate) fn endpoints(&self, cluster: &str) -> BTreeMap<&str, bool> {
        let all = self.0["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
        let here = all.iter().filter(|one| one["clusterName"] == cluster);
        let localities = here.flat_map(|one| one["endpoints"].as_array().into_iter().flatten());
        let endpoints =
            localities.flat_map(|one| one["lbEndpoints"].as_array().into_iter().flatten());
        endpoints
            .filter_map(|one| {
                let address = one["endpoint"]["address"]["socketAddress"]["address"].as_str()?;
                let matches = &one["metadata"]["filterMetadata"]["envoy.transport_socket_match"];
                Some((address, matches["tlsMode"] == "istio"))
            })
            .collect()
    }
}

/// What goes on the wire through a cluster.
pub(crate) fn wire(cluster: &Value) -> Wire {
    if cluster["transportSocketMatches"].as_array().is_some_and(|all| !all.is_empty()) {
        return Wire::Auto;
    }
    let tls = &cluster["transportSocket"]["typedConfig"];
    if tls.is_null() {
        return Wire::Plaintext;
    }
    let own = &tls["commonTlsContext"]["tlsCertificateSdsSecretConfigs"][0]["name"];
    match own.as_str() {
        Some("default") => Wire::IstioMutual,
        Some(_) => Wire::Foreign("MUTUAL"),
        None => Wire::Foreign("SIMPLE"),
    }
}

/// What goes through such a cluster to an endpoint that does or does not announce mutual TLS.
pub(crate) fn bytes(wire: &Wire, announces: bool) -> Bytes {
    match wire {
        Wire::Auto if announces => Bytes::IstioMutual,
        Wire::Auto | Wire::Plaintext => Bytes::Plaintext,
        Wire::IstioMutual => Bytes::IstioMutual,
        Wire::Foreign(mode) => Bytes::Foreign(mode),
        Wire::Unknown(why) => Bytes::Unknown(why.clone()),
    }
}
