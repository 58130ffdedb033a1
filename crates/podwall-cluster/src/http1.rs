//! How is one short question asked over a socket that no client library is for?

use std::io::{self, Read, Write};

/// Sends a request and reads the status and the body to the end of the connection. HTTP/1.0, so that
/// nobody answers in chunks.
pub(crate) fn ask(
    mut socket: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    let length = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}
