use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::{Doing, Error, http_probe};

/// Longer than any timeout of a proxy that a test is to see.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much of an answer that is not 200 is told.
const WORDS: usize = 160;

/// Asks `url` so many times a second, on a new connection each time, and prints a line for each
/// request: when it ended, and `200` or what else came instead. For ever, or so many times.
///
/// A name of several addresses is asked at one after the other.
pub async fn load(
    url: &str,
    per_second: u32,
    times: Option<u32>,
    trust: Option<&Path>,
) -> Result<(), Error> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let tls = match (scheme, trust) {
        ("http", None) => None,
        ("https", Some(authority)) => Some(trusting(authority)?),
        _ => return Err(Error::new(format!("{url} is neither http nor https with --trust"))),
    };
    let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let mut beats = tokio::time::interval(Duration::from_secs(1) / per_second.max(1));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut failed) = (0_u32, 0_u32);
    while times.is_none_or(|times| sent < times) {
        beats.tick().await;
        let asking = ask(address, path, sent, tls.as_ref());
        let said = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok((200, _))) => "200".to_owned(),
            Ok(Ok((status, body))) => format!("{status} {}", one_line(&body)),
            Ok(Err(error)) => one_line(&error.to_string()),
            Err(_) => format!("no answer in {} s", PATIENCE.as_secs()),
        };
        println!("{} {said}", Timestamp::now());
        sent = sent.wrapping_add(1);
        failed += u32::from(said != "200");
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::new(format!("{failed} of {sent} requests failed"))),
    }
}

/// What a server answers to one request in plaintext from this machine: a status, or why none.
pub async fn plaintext(address: &str) -> Result<u16, String> {
    match tokio::time::timeout(PATIENCE, ask(address, "/", 0, None)).await {
        Ok(Ok((status, _))) => Ok(status),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer in {} s", PATIENCE.as_secs())),
    }
}

async fn ask(
    address: &str,
    path: &str,
    number: u32,
    tls: Option<&TlsConnector>,
) -> io::Result<(u16, String)> {
    let addresses: Vec<_> = tokio::net::lookup_host(address).await?.collect();
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let Some(turn) = number.checked_rem(count) else {
        return Err(io::Error::other("the name has no address"));
    };
    let stream = TcpStream::connect(addresses[turn as usize]).await?;
    let Some(tls) = tls else { return http_probe::fetch(stream, address, path).await };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
    let host = ServerName::try_from(host).map_err(io::Error::other)?;
    http_probe::fetch(tls.connect(host, stream).await?, address, path).await
}

fn trusting(authority: &Path) -> Result<TlsConnector, Error> {
    let reading = || format!("reading {}", authority.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).doing(reading())? {
        roots.add(certificate.doing(reading())?).doing(reading())?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim().chars().take(WORDS).collect()
}
