//! How is an agent asked?

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::flow::Flow;
use crate::message::{Answer, Refusal, Request};

/// The longest answer that is read, in bytes: what is in force for a pod of ten thousand rules.
const LONGEST: u64 = 64 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no Podwall agent listens at {}: {source}", .path.display())]
    NoAgent {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket is for root.
    #[error("the socket {} of the Podwall agent is for root only", .path.display())]
    Permission {
        /// Where.
        path: PathBuf,
    },
    /// It did not answer in time.
    #[error("the Podwall agent did not answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// The connection broke.
    #[error("the connection to the Podwall agent broke: {0}")]
    Broken(#[source] io::Error),
    /// The answer is no answer.
    #[error("the Podwall agent's answer cannot be read ({0}); are both of one version?")]
    Unreadable(#[source] serde_json::Error),
    /// It says no.
    #[error("{0}")]
    Refused(Refusal),
}

/// A connection to an agent, for one question.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    patience: Duration,
}

impl Client {
    /// Connects; each answer may take so long.
    ///
    /// # Errors
    /// Nobody listens there, or we are not root.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let no_agent = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Permission { path: path.to_path_buf() },
            _ => ClientError::NoAgent { path: path.to_path_buf(), source },
        };
        let stream = UnixStream::connect(path).map_err(no_agent)?;
        let limit = Some(patience.max(Duration::from_millis(1))); // zero would mean for ever
        stream.set_read_timeout(limit).map_err(ClientError::Broken)?;
        stream.set_write_timeout(limit).map_err(ClientError::Broken)?;
        Ok(Self { stream: BufReader::new(stream), patience })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// There is none in time, or the agent says no.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(ClientError::Unreadable)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| self.broken(error))?;
        match self.read()? {
            Some(Answer::Ok(answer)) => Ok(answer),
            Some(Answer::Error(refusal)) => Err(ClientError::Refused(refusal)),
            None => Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Denied packets from now on, until the agent ends.
    ///
    /// # Errors
    /// The agent says no.
    pub fn flows(mut self) -> Result<impl Iterator<Item = Result<Flow, ClientError>>, ClientError> {
        self.ask::<()>(&Request::Flows)?;
        // Nothing may be denied for days.
        self.stream.get_ref().set_read_timeout(None).map_err(ClientError::Broken)?;
        Ok(std::iter::from_fn(move || self.read().transpose()))
    }

    /// The next line; `None`: the agent has closed.
    fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LONGEST).read_until(b'\n', &mut line);
        if read.map_err(|error| self.broken(error))? == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(ClientError::Unreadable)
    }

    fn broken(&self, error: io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Late(self.patience),
            _ => ClientError::Broken(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::message::Code;

    /// Listens, reads one line and says these words.
    fn mk_agent(says: &'static str) -> (tempfile::TempDir, PathBuf, thread::JoinHandle<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            stream.get_mut().write_all(says.as_bytes()).unwrap();
            line
        });
        (dir, path, thread)
    }

    fn ask<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ClientError> {
        Client::connect(path, Duration::from_secs(5))?.ask(request)
    }

    #[test]
    fn a_question_is_a_line_and_so_is_its_answer() {
        let (_dir, path, agent) = mk_agent("{\"ok\":null}\n");
        ask::<()>(&path, &Request::Ready).unwrap();
        assert_eq!(agent.join().unwrap(), "{\"ask\":\"ready\"}\n");
    }

    #[test]
    fn a_refusal_carries_its_words() {
        let (_dir, path, _agent) =
            mk_agent("{\"error\":{\"code\":\"not-yet\",\"message\":\"later\"}}\n");
        match ask::<()>(&path, &Request::Ready) {
            Err(ClientError::Refused(refusal)) => {
                assert_eq!((refusal.code, refusal.to_string()), (Code::NotYet, "later".into()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_agent_a_broken_and_an_unreadable_answer_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let none = ask::<()>(&dir.path().join("agent.sock"), &Request::Ready).unwrap_err();
        assert!(none.to_string().starts_with("no Podwall agent listens at "), "{none}");
        let (_dir, path, _agent) = mk_agent("");
        let broken = ask::<()>(&path, &Request::Ready).unwrap_err();
        assert!(matches!(broken, ClientError::Broken(_)), "{broken}");
        let (_dir, path, _agent) = mk_agent("hello\n");
        let words = ask::<()>(&path, &Request::Ready).unwrap_err();
        assert!(words.to_string().contains("are both of one version?"), "{words}");
    }

    #[test]
    fn an_agent_that_never_answers_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::connect(&path, Duration::from_millis(20)).unwrap();
        let late = client.ask::<()>(&Request::Status).unwrap_err();
        assert_eq!(late.to_string(), "the Podwall agent did not answer within 0.02 s");
    }

    #[test]
    fn flows_come_until_the_agent_closes() {
        let (_dir, path, _agent) = mk_agent(concat!(
            "{\"ok\":null}\n",
            "{\"time\":1,\"node\":\"n1\",\"verdict\":\"denied\",\"direction\":\"egress\",",
            "\"src\":\"shop/a\",\"dst\":null,\"srcAddress\":\"10.0.0.1\",\"dstAddress\":\"1.1.1.1\",",
            "\"protocol\":\"TCP\",\"srcPort\":1,\"port\":80,\"isolatedBy\":[],\"reason\":\"so\"}\n"
        ));
        let client = Client::connect(&path, Duration::from_secs(5)).unwrap();
        let flows: Vec<Flow> = client.flows().unwrap().map(Result::unwrap).collect();
        assert_eq!(flows.iter().map(|flow| flow.port).collect::<Vec<_>>(), [80]);
    }
}
