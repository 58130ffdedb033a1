//! Is this the beginning of an HTTP request, and where does it end?
//!
//! ```text
//!   GET / HTTP/1.1\r\n  header: value\r\n …  \r\n  body
//!   └ method known?                          └ end of head, Content-Length more bytes
//! ```
//!
//! Just enough of RFC 9112 for curl, wget, browsers, load generators and probes.

/// A request longer than this is answered without being read to its end, in bytes.
const LONGEST: usize = 64 * 1024;

/// The methods after which HTTP is assumed.
const METHODS: [&str; 9] =
    ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT "];

/// What the received bytes are so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Nothing yet, or the beginning of an HTTP request.
    Incomplete,
    /// A whole HTTP request.
    Http {
        /// Its length with the body, in bytes.
        length: usize,
        /// The answer has no body.
        head: bool,
        /// The connection ends after the answer.
        close: bool,
    },
    /// Something else.
    Other,
}

/// Reads what was received.
pub(super) fn read(received: &[u8]) -> Request {
    let begins = |method: &&str| {
        let common = method.len().min(received.len());
        method.as_bytes()[..common] == received[..common]
    };
    if !METHODS.iter().any(begins) {
        return Request::Other;
    }
    let Some((head_length, blank)) = end_of_head(received) else {
        let too_long = Request::Http { length: received.len(), head: false, close: true };
        return if received.len() > LONGEST { too_long } else { Request::Incomplete };
    };
    let text = String::from_utf8_lossy(&received[..head_length]);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let (mut body, mut close) = (0, !first.trim_end().ends_with("HTTP/1.1"));
    for line in lines {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().to_ascii_lowercase();
        match key.to_ascii_lowercase().as_str() {
            "content-length" => body = value.parse::<usize>().unwrap_or(usize::MAX),
            "connection" if value.contains("close") => close = true,
            "connection" if value.contains("keep-alive") => close = false,
            // The end of such a body is not looked for; the answer ends the connection.
            "transfer-encoding" | "expect" | "upgrade" => (body, close) = (0, true),
            _ => {}
        }
    }
    let length = head_length.saturating_add(blank).saturating_add(body);
    let head = first.starts_with("HEAD ");
    if length > LONGEST {
        Request::Http { length: received.len(), head, close: true }
    } else if length > received.len() {
        Request::Incomplete
    } else {
        Request::Http { length, head, close }
    }
}

/// Where the empty line begins that ends the head, and how long its mark is. A bare line feed is
/// taken as an end of line (RFC 9112 §2.2), for people who type requests.
fn end_of_head(received: &[u8]) -> Option<(usize, usize)> {
    let find = |mark: &[u8]| received.windows(mark.len()).position(|w| w == mark);
    let found = [b"\r\n\r\n".as_slice(), b"\n\n".as_slice()]
        .into_iter()
        .filter_map(|mark| find(mark).map(|at| (at, mark.len())));
    found.min()
}

/// An answer with a text.
pub(super) fn response(text: &str, head: bool, close: bool) -> String {
    let connection = if close { "close" } else { "keep-alive" };
    let length = text.len();
    let body = if head { "" } else { text };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn http(length: usize, head: bool, close: bool) -> Request {
        Request::Http { length, head, close }
    }

    #[test]
    fn requests_are_told_from_other_bytes() {
        assert_eq!(read(b""), Request::Incomplete);
        assert_eq!(read(b"GE"), Request::Incomplete);
        assert_eq!(read(b"GET / HTTP/1.1\r\nHost: a\r\n"), Request::Incomplete);
        assert_eq!(read(b"hello\n"), Request::Other);
        assert_eq!(read(b"GETS"), Request::Other);
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\nGET"), http(18, false, false));
        assert_eq!(read(b"GET / HTTP/1.0\n\n"), http(16, false, true));
        assert_eq!(read(b"HEAD / HTTP/1.1\r\nConnection: Close\r\n\r\n"), http(38, true, true));
    }

    #[test]
    fn a_body_belongs_to_its_request() {
        let head = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(read(head), Request::Incomplete);
        let whole = [head.as_slice(), b"abc"].concat();
        assert_eq!(read(&whole), http(whole.len(), false, false));
        let endless = b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n";
        assert_eq!(read(endless), http(endless.len(), false, true));
    }

    proptest! {
        #[test]
        fn a_request_never_reaches_past_what_was_received(
            method in 0..METHODS.len(),
            rest in "[ -~\r\n]{0,200}",
        ) {
            let bytes = [METHODS[method].as_bytes(), rest.as_bytes()].concat();
            if let Request::Http { length, .. } = read(&bytes) {
                prop_assert!(length <= bytes.len() && length > 0);
            }
        }
    }
}
