use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// One GET over plain HTTP to a port of this machine: the status and the body.
pub(crate) async fn get(port: u16, target: &str) -> io::Result<(u16, String)> {
    get_at((Ipv4Addr::LOCALHOST, port).into(), target).await
}

/// The same to anywhere.
pub(crate) async fn get_at(address: SocketAddr, target: &str) -> io::Result<(u16, String)> {
    send_to(address, target, None).await
}

/// A GET, or a POST where there is a form.
pub(crate) async fn send(
    port: u16,
    target: &str,
    form: Option<&[u8]>,
) -> io::Result<(u16, String)> {
    send_to((Ipv4Addr::LOCALHOST, port).into(), target, form).await
}

async fn send_to(
    address: SocketAddr,
    target: &str,
    form: Option<&[u8]>,
) -> io::Result<(u16, String)> {
    let method = if form.is_some() { "POST" } else { "GET" };
    let form = form.unwrap_or_default();
    // 1.0, so that the answer comes in one piece and ends with the connection.
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n",
        form.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(form).await?;
    answer(stream).await
}

async fn answer(mut stream: impl AsyncRead + Unpin) -> io::Result<(u16, String)> {
    let mut answer = vec![];
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("not an HTTP answer"))?;
    Ok((status, body.to_owned()))
}

/// One GET as a browser would send it to `HOST:PORT`, on a connection that is for it alone: the
/// status and what followed it.
pub(crate) async fn fetch(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &str,
    path: &str,
) -> io::Result<(u16, String)> {
    // Proxies answer 426 to 1.0.
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    answer(stream).await
}

/// `Err` says why the port's path does not answer 200 yet.
pub(crate) async fn ready(port: u16, path: &str) -> Result<(), String> {
    match get(port, path).await {
        Ok((200, _)) => Ok(()),
        Ok((status, body)) => Err(format!("{status} {}", body.trim())),
        Err(error) => Err(error.to_string()),
    }
}
