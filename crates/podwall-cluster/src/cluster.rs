//! What does the API server run on, and how is it asked?
//!
//! ```text
//!   start ── certificates, tokens, kubeconfigs ──▶ etcd ──▶ kube-apiserver ──▶ /readyz ──▶ rbac.yaml
//!   stop_server, start_server: the same etcd, the same port; nobody listens in between
//! ```

use std::fmt;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::agent::AgentToStart;
use crate::assets::{Assets, tail};
use crate::certificates;
use crate::etcd::{self, Etcd};
use crate::objects::{collection, place, running};
use crate::process::{Started, start};
use crate::scratch::Scratch;

/// What agents may do: the file that is shipped.
const RBAC: &str = include_str!("../../../deploy/rbac.yaml");

/// Tokens with users and groups: a person who may do everything, and the agents' account.
const TOKENS: &str = "\
admin-token,admin,admin,system:masters
agent-token,system:serviceaccount:podwall:podwall,agent,\"system:serviceaccounts,system:serviceaccounts:podwall\"
";

/// How long a server may take to be ready. Three seconds are usual; machines can be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// So many requests at a time.
const WINDOW: usize = 32;

/// An API server and what it stands on. Ends with this value.
pub struct Cluster {
    assets: Assets,
    server: Mutex<Option<Started>>,
    etcd: Mutex<Etcd>,
    /// Keeps the port ours while no server listens on it. Never listens itself.
    _port: OwnedFd,
    port: u16,
    runtime: Runtime,
    client: Mutex<Client>,
    // Last, so that what writes there has ended before.
    scratch: Scratch,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster at 127.0.0.1:{} in {}", self.port, self.dir().display())
    }
}

// === impl Cluster ===

impl Cluster {
    /// Whether this machine has the programs. Says SKIPPED if not; fails the test where
    /// `PODWALL_REQUIRE_CLUSTER` says that there must be a cluster, as in CI.
    #[track_caller]
    pub fn is_possible() -> bool {
        Assets::is_there()
    }

    /// Starts a cluster and waits until it answers and knows the rights of agents.
    #[track_caller]
    pub fn start() -> Self {
        let assets = Assets::find().unwrap_or_else(|missing| panic!("{missing}"));
        let scratch = Scratch::new();
        let (held, port) = hold_port();
        certificates::write(scratch.path());
        fs::write(scratch.path().join("tokens.csv"), TOKENS).expect("tokens");
        for user in ["admin", "agent"] {
            let text = kubeconfig(scratch.path(), port, user);
            fs::write(scratch.path().join(format!("{user}.kubeconfig")), text).expect("a file");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let etcd = Etcd::start(&assets, scratch.path());
        let client = new_client(&runtime, &scratch.path().join("admin.kubeconfig"));
        let cluster = Self {
            assets,
            server: Mutex::new(None),
            etcd: Mutex::new(etcd),
            _port: held,
            port,
            runtime,
            client: Mutex::new(client),
            scratch,
        };
        cluster.start_server();
        cluster.apply(RBAC);
        cluster
    }

    /// A directory that ends with the cluster.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// A name in the bpffs, for agents' programs, that ends with the cluster.
    pub fn pins(&self) -> &Path {
        self.scratch.pins()
    }

    /// The kubeconfig of who may do everything.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// The kubeconfig of agents: the service account of `deploy/rbac.yaml`.
    pub fn agent_kubeconfig(&self) -> PathBuf {
        self.dir().join("agent.kubeconfig")
    }

    /// Starts the API server, again or for the first time, and waits until it is ready.
    #[track_caller]
    pub fn start_server(&self) {
        let log = self.dir().join("kube-apiserver.log");
        let mut server = start(&self.assets.server, |command| {
            command
                .arg(format!("--etcd-servers={}", etcd::URL))
                .arg(format!("--secure-port={}", self.port))
                .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
                .args(["--permit-port-sharing=true", "--endpoint-reconciler-type=none"])
                .args(["--tls-cert-file=tls.crt", "--tls-private-key-file=tls.key"])
                .args(["--service-account-key-file=tls.crt"])
                .args(["--service-account-signing-key-file=tls.key"])
                .args(["--service-account-issuer=https://kubernetes.default.svc"])
                .args(["--service-cluster-ip-range=10.96.0.0/16,fd96::/108"])
                .args(["--token-auth-file=tokens.csv", "--authorization-mode=RBAC"])
                .args(["--disable-admission-plugins=ServiceAccount", "--allow-privileged=true"])
                .arg("--profiling=false");
            if self.assets.minor < 21 {
                command.arg("--feature-gates=IPv6DualStack=true");
            }
            let append = || File::options().create(true).append(true).open(&log).expect("a log");
            command.current_dir(self.dir()).stdin(Stdio::null()).stdout(append()).stderr(append());
        });
        let fresh = new_client(&self.runtime, &self.admin_kubeconfig());
        *held(&self.client) = fresh;
        let end = Instant::now() + PATIENCE;
        while self.text("/readyz").is_err() {
            held(&self.etcd).check();
            if let Some(status) = server.ended() {
                panic!("kube-apiserver ended: {status}\n{}", tail(&log));
            }
            assert!(Instant::now() < end, "kube-apiserver is not ready:\n{}", tail(&log));
            thread::sleep(Duration::from_millis(20));
        }
        *held(&self.server) = Some(server);
    }

    /// Kills the API server. Its port refuses until it is started again.
    pub fn stop_server(&self) {
        held(&self.server).take();
    }

    /// Has etcd forget all revisions but the newest: watches from earlier ones get 410 from a server
    /// that was started since then.
    pub fn compact(&self) -> u64 {
        held(&self.etcd).compact()
    }

    /// Writes an object past the server's checks, as an older or a broken server might have left it.
    /// Whoever lists or watches is told of it. It must not have been created through the server.
    #[track_caller]
    pub fn plant(&self, object: &Value) {
        let key = collection(object);
        let (kind, namespace) = (key.rsplit('/').next(), object["metadata"]["namespace"].as_str());
        let name = object["metadata"]["name"].as_str();
        let key = [Some("/registry"), kind, namespace, name].into_iter().flatten();
        let key: Vec<&str> = key.collect();
        let mut object = object.clone();
        // What the server would have given it.
        object["metadata"]["uid"] = format!("planted-{}", key.join("-")).into();
        object["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
        held(&self.etcd).put(&key.join("/"), &object.to_string());
    }

    // --- asking ---------------------------------------------------------------------------------

    fn client(&self) -> Client {
        held(&self.client).clone()
    }

    fn text(&self, path: &str) -> Result<String, kube::Error> {
        let request = Request::get(path).body(Vec::new()).expect("a request");
        let client = self.client();
        self.runtime.block_on(async move { client.request_text(request).await })
    }

    /// Any request of the administrator's.
    ///
    /// # Errors
    /// What the server said, or that it could not be asked.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        self.runtime.block_on(request(self.client(), method, path, body))
    }

    /// An object or a list.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.request("GET", path, &Value::Null).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Creates an object. A pod's or a node's status is left out by the server; see
    /// [`Self::run_pod`], [`Self::set_status`].
    #[track_caller]
    pub fn create(&self, object: &Value) -> Value {
        self.request("POST", &collection(object), object).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Changes an object with a merge patch (RFC 7386).
    #[track_caller]
    pub fn patch(&self, object: &Value, patch: &Value) -> Value {
        self.request("PATCH", &place(object), patch).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Changes an object's status with a merge patch, as a kubelet does; `{"status": …}`.
    #[track_caller]
    pub fn set_status(&self, object: &Value, status: &Value) -> Value {
        let place = format!("{}/status", place(object));
        self.request("PATCH", &place, status).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Creates a pod and says that it runs, with these addresses.
    #[track_caller]
    pub fn run_pod(&self, pod: &Value, ips: &[IpAddr]) {
        self.run_pods(&[(pod.clone(), ips.to_vec())]);
    }

    /// The same for many, many at a time.
    #[track_caller]
    pub fn run_pods(&self, pods: &[(Value, Vec<IpAddr>)]) {
        let client = self.client();
        self.each(pods, |(pod, ips)| {
            let client = client.clone();
            async move {
                request(client.clone(), "POST", &collection(pod), pod).await?;
                request(client, "PATCH", &format!("{}/status", place(pod)), &running(ips)).await
            }
        });
    }

    /// Creates objects, many at a time and in no order.
    #[track_caller]
    pub fn create_all(&self, objects: &[Value]) {
        let client = self.client();
        self.each(objects, |object| {
            let client = client.clone();
            async move { request(client, "POST", &collection(object), object).await }
        });
    }

    #[track_caller]
    fn each<'a, T, F>(&self, all: &'a [T], work: impl Fn(&'a T) -> F)
    where
        F: Future<Output = Result<Value, String>>,
    {
        let done = stream::iter(all).map(work).buffer_unordered(WINDOW);
        let wrong: Vec<String> =
            self.runtime.block_on(done.filter_map(|done| async { done.err() }).collect());
        assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), all.len(), wrong[0]);
    }

    /// Deletes an object at once, as nobody is there to end a pod's containers.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        let now = serde_json::json!({ "gracePeriodSeconds": 0 });
        let gone = self.request("DELETE", &place(object), &now);
        gone.unwrap_or_else(|said| panic!("{said}"));
    }

    // --- kubectl --------------------------------------------------------------------------------

    /// Runs kubectl as administrator and gives what it printed.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> String {
        self.try_kubectl(args, stdin)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", args.join(" ")))
    }

    /// The same where it may fail.
    ///
    /// # Errors
    /// What it printed to its standard error.
    pub fn try_kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<String, String> {
        // A file, which no program can make us wait for.
        let input = match stdin {
            Some(text) => {
                let mut file = tempfile::tempfile().expect("a file");
                std::io::Write::write_all(&mut file, text.as_bytes()).expect("a file");
                std::io::Seek::rewind(&mut file).expect("a file");
                file.into()
            }
            None => Stdio::null(),
        };
        let ran = Command::new(&self.assets.kubectl)
            .env("KUBECONFIG", self.admin_kubeconfig())
            .env("HOME", self.dir())
            .args(args)
            .stdin(input)
            .output()
            .expect("kubectl");
        match ran.status.success() {
            true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&ran.stderr).into_owned()),
        }
    }

    /// `kubectl apply -f -`
    #[track_caller]
    pub fn apply(&self, text: &str) -> String {
        self.kubectl(&["apply", "-f", "-"], Some(text))
    }

    // --- agents ---------------------------------------------------------------------------------

    /// An agent for a node, to be set up and started; `program` is the `podwall` to run.
    pub fn agent(&self, program: impl AsRef<Path>, node: &str) -> AgentToStart {
        AgentToStart::new(program.as_ref(), node, &self.agent_kubeconfig(), self.dir())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_server();
        if thread::panicking() {
            let log = self.dir().join("kube-apiserver.log");
            eprintln!("--- the end of kube-apiserver's log\n{}", tail(&log));
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed elsewhere is told there.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn request(client: Client, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let bytes = match body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let asked = Request::builder().method(method).uri(path).header("Content-Type", kind);
    let asked = asked.body(bytes).expect("a request");
    client.request(asked).await.map_err(|error| format!("{method} {path}: {error}"))
}

fn new_client(runtime: &Runtime, kubeconfig: &Path) -> Client {
    runtime.block_on(async {
        let file = Kubeconfig::read_from(kubeconfig).expect("our own kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("our own kubeconfig")).expect("a client")
    })
}

fn kubeconfig(dir: &Path, port: u16, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: test, cluster: {{server: 'https://127.0.0.1:{port}', \
         certificate-authority: '{}'}}}}]\n\
         contexts: [{{name: test, context: {{cluster: test, user: {user}}}}}]\n\
         users: [{{name: {user}, user: {{token: {user}-token}}}}]\n",
        dir.join("ca.crt").display()
    )
}

/// A port of 127.0.0.1 that nobody else gets while the socket lives, but who shares it on purpose.
fn hold_port() -> (OwnedFd, u16) {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let fd = fd.expect("a socket");
    setsockopt(&fd, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    bind(fd.as_raw_fd(), &any).expect("a port");
    let port = getsockname::<SockaddrIn>(fd.as_raw_fd()).expect("a port").port();
    (fd, port)
}
