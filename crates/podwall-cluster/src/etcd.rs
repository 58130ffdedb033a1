//! What holds the objects, and how is it made to forget and to lie?
//!
//! ```text
//!   kube-apiserver ──▶ etcd:0 ◀── put, compact (etcd's JSON gateway)
//! ```

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::assets::{Assets, tail};
use crate::http1::ask;
use crate::process::{Started, start};

/// Where it listens: a socket in its directory, which etcd 3.4 wants to be named as host and port.
pub(crate) const URL: &str = "unix://etcd:0";

/// An etcd of one member, which listens on sockets alone.
#[derive(Debug)]
pub(crate) struct Etcd {
    process: Started,
    socket: PathBuf,
    log: PathBuf,
}

impl Etcd {
    pub(crate) fn start(assets: &Assets, dir: &Path) -> Self {
        let (socket, log) = (dir.join("etcd:0"), dir.join("etcd.log"));
        // Its one peer is itself.
        let process = start(&assets.etcd, |command| {
            command
                .args(["--data-dir", "etcd", "--logger", "zap"])
                .args(["--listen-client-urls", URL, "--advertise-client-urls", URL])
                .args(["--listen-peer-urls", "unix://localhost:1"])
                .args(["--initial-advertise-peer-urls", "unix://localhost:1"])
                .args(["--initial-cluster", "default=unix://localhost:1"])
                .current_dir(dir)
                .stdin(std::process::Stdio::null())
                .stdout(std::fs::File::create(&log).expect("a log"))
                .stderr(std::fs::File::options().append(true).open(&log).expect("a log"));
        });
        Self { process, socket, log }
    }

    /// Fails the test if it has ended.
    pub(crate) fn check(&mut self) {
        if let Some(status) = self.process.ended() {
            panic!("etcd ended: {status}\n{}", tail(&self.log));
        }
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let socket = UnixStream::connect(&self.socket).expect("etcd's socket");
        let (status, answer) = ask(socket, "POST", path, &body.to_string()).expect("etcd answers");
        assert_eq!(status, 200, "etcd: {path} {body}: {answer}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("etcd: {error}: {answer}"))
    }

    /// Writes a value past the API server.
    pub(crate) fn put(&self, key: &str, value: &str) {
        let request = json!({ "key": base64(key.as_bytes()), "value": base64(value.as_bytes()) });
        self.ask("/v3/kv/put", &request);
    }

    /// Forgets all revisions but the newest, which it returns.
    pub(crate) fn compact(&self) -> u64 {
        let said = self.ask("/v3/kv/range", &json!({ "key": base64(b"/") }));
        let newest = said.pointer("/header/revision").and_then(Value::as_str);
        let newest = newest.and_then(|text| text.parse().ok()).expect("etcd's revision");
        self.ask("/v3/kv/compaction", &json!({ "revision": newest, "physical": true }));
        newest
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let of = |three: &[u8]| {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        [18, 12, 6, 0]
            .iter()
            .enumerate()
            .map(move |(index, shift)| match index > three.len() {
                true => '=',
                false => char::from(DIGITS[(bits >> shift & 63) as usize]),
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, code) in known {
            assert_eq!(base64(text.as_bytes()), code);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
