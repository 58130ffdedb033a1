//! How is the worker asked without the cost of a process?
//!
//! Over its socket, as `podwall_lab::client` does, but without that client's look at the version:
//! this program is another one than `podwall`, and would replace the worker that it measures.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use podwall_lab::client::lab_dir;
use podwall_lab::rpc::{Event, Manifest, Request};
use podwall_manifest::{Input, Options, read, render_all};
use serde_json::Value;

/// A connection that stays.
pub(crate) struct Connection(BufReader<UnixStream>);

impl Connection {
    /// To the worker of a lab that runs.
    pub(crate) fn open(lab: &str) -> Self {
        let socket = lab_dir(lab).unwrap().join("worker.sock");
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    /// One request, and its whole answer.
    pub(crate) fn call(&mut self, request: &Request) -> Value {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.0.get_mut().write_all(&line).unwrap();
        loop {
            let mut answer = String::new();
            self.0.read_line(&mut answer).unwrap();
            match serde_json::from_str(&answer).unwrap() {
                Event::Reply { body } => return body,
                Event::Progress { .. } | Event::Warning { .. } | Event::Item { .. } => {}
                Event::Error { message, .. } => {
                    eprintln!("the worker refused: {message}");
                    std::process::exit(1);
                }
            }
        }
    }
}

/// The request to apply a text.
pub(crate) fn apply(text: &str) -> Request {
    let input = Input::Text { name: "bench.yaml".into(), text: text.to_owned() };
    let reading = read(&[input], &Options::default());
    assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
    let manifest =
        |object: podwall_manifest::Object| Manifest { places: object.places(), raw: object.raw };
    Request::Apply { objects: reading.objects.into_iter().map(manifest).collect() }
}
