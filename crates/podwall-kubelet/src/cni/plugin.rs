//! How is one plugin run?
//!
//! ```text
//!   in the node's namespace:  CNI_COMMAND=ADD … plugin  ◀── stdin: configuration
//!                             exit 0: stdout is a result   else: stdout is {code, msg, details}
//! ```

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use podwall_lab::netns::NetNs;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{CniError, INTERFACE, Network, Sandbox};

/// How long a plugin may take: as long as a kubelet waits for its runtime.
const PATIENCE: Duration = Duration::from_secs(110);

/// Runs a plugin and gives its result; `Null` if it said nothing.
pub(super) async fn run(
    network: &Network,
    node: &NetNs,
    config: &Value,
    verb: &'static str,
    sandbox: &Sandbox,
    input: &Value,
) -> Result<Value, CniError> {
    let name = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let failed = |reason: String| CniError::Run { name: name.to_owned(), verb, reason };
    let program = find(&network.bin, name)?;
    let child = start(network, node, &program, verb, sandbox);
    let child =
        child?.map_err(|error| failed(format!("cannot run {}: {error}", program.display())))?;
    let talked = timeout(PATIENCE, talk(child, input)).await;
    let output = talked
        .map_err(|_| failed(format!("no end after {} s", PATIENCE.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    understand(name, verb, &output)
}

/// The first that is there.
fn find(bin: &[PathBuf], name: &str) -> Result<PathBuf, CniError> {
    // A type is a file's name, nothing that leads elsewhere.
    let plain = Path::new(name).file_name().is_some_and(|file| file == name);
    let found = bin.iter().map(|dir| dir.join(name)).find(|path| plain && path.is_file());
    found.ok_or_else(|| {
        let places: Vec<String> = bin.iter().map(|dir| dir.display().to_string()).collect();
        CniError::Missing { name: name.to_owned(), places: places.join(", ") }
    })
}

/// Starts it in the node's namespace: a child has the network of the thread that started it.
fn start(
    network: &Network,
    node: &NetNs,
    program: &Path,
    verb: &str,
    sandbox: &Sandbox,
) -> Result<std::io::Result<Child>, CniError> {
    let path = std::env::join_paths(&network.bin).unwrap_or_default();
    let runtime = Handle::current();
    Ok(node.within(|| {
        let _in_runtime = runtime.enter();
        Command::new(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", sandbox.arguments())
            .env("CNI_PATH", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    })?)
}

async fn talk(mut child: Child, input: &Value) -> std::io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its reasons, and says them.
        let _ = stdin.write_all(input.to_string().as_bytes()).await;
    }
    child.wait_with_output().await
}

fn understand(name: &str, verb: &'static str, output: &Output) -> Result<Value, CniError> {
    let said = String::from_utf8_lossy(&output.stdout);
    let words = || {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("{}: {}{}", output.status, said.trim(), stderr.trim())
    };
    let failed = |reason: String| CniError::Run { name: name.to_owned(), verb, reason };
    if output.status.success() {
        let said = said.trim();
        return match said.is_empty() || verb == "DEL" {
            true => Ok(Value::Null),
            false => {
                serde_json::from_str(said).map_err(|_| failed(format!("no result: {}", words())))
            }
        };
    }
    let error: Option<Value> = serde_json::from_str(said.trim()).ok();
    let message = error.as_ref().and_then(|error| error.get("msg")?.as_str());
    let Some(message) = message else { return Err(failed(words())) };
    let details = error.as_ref().and_then(|error| error.get("details")?.as_str());
    let message = match details.filter(|details| !details.is_empty()) {
        Some(details) => format!("{message}; {details}"),
        None => message.to_owned(),
    };
    let code = error.as_ref().and_then(|error| error.get("code")?.as_i64()).unwrap_or(999);
    Err(CniError::Refused { name: name.to_owned(), verb, message, code })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn output(code: i32, out: &str, err: &str) -> Output {
        let status = ExitStatus::from_raw(code << 8);
        Output { status, stdout: out.into(), stderr: err.into() }
    }

    #[test]
    fn a_plugin_says_results_and_errors_on_standard_output() {
        let said = understand("p", "ADD", &output(0, "{\"ips\": []}\n", "noise")).unwrap();
        assert!(said["ips"].is_array());
        assert!(understand("p", "DEL", &output(0, "", "")).unwrap().is_null());
        let no = "{\"code\": 11, \"msg\": \"try later\", \"details\": \"busy\"}";
        let no = understand("p", "ADD", &output(1, no, "")).unwrap_err().to_string();
        assert_eq!(no, "CNI plugin p (ADD): try later; busy (code 11)");
        let dead = understand("p", "ADD", &output(2, "", "panic: oh")).unwrap_err().to_string();
        assert!(dead.contains("panic: oh"), "{dead}");
        assert!(understand("p", "ADD", &output(0, "hello", "")).is_err());
    }

    #[test]
    fn a_type_leads_nowhere_else() {
        let bin = [PathBuf::from("/usr/bin")];
        assert!(find(&bin, "env").is_ok());
        for name in ["../bin/env", "", "/usr/bin/env", "no-such-plugin"] {
            assert!(find(&bin, name).is_err(), "{name}");
        }
    }
}
