//! What would the manifests of a cluster of this size look like?
//!
//! ```text
//!   ns-0 …   100 pods each: apps a0, a1 … of three replicas, a Deployment and a Service each
//!     policies      for all pods: default deny, DNS, metrics, an entry
//!                   app to app, to another namespace, of a team, blocks of the outside
//!     an Ingress    to the namespace's first app
//! ```
//!
//! The same cluster as the engine's bench has (`podwall-analysis/benches/reachability.rs`), as people
//! keep it: a repository of files, one file, or what `kubectl get -o yaml` prints of it. The same
//! sizes give the same bytes.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use podwall_compile::testing::dice::Dice;

const PER_NAMESPACE: usize = 100;
const REPLICAS: usize = 3;
const PER_NODE: usize = 250;
const TEAMS: usize = 40;
const APPS: usize = PER_NAMESPACE.div_ceil(REPLICAS);

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Pods of the cluster.
    pub pods: usize,
    /// NetworkPolicies.
    pub policies: usize,
}

/// How the manifests are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// A directory for each namespace, a file for each app and each policy.
    Repository,
    /// The same, one after another in one file.
    Bundle,
    /// The bundle as a change would leave it: some policies name another port.
    Changed,
    /// What `kubectl get -o yaml` prints: no Deployments, but pods with addresses and all that an
    /// API server adds.
    Dump,
    /// Assertions on it, three for each namespace.
    Assertions,
    /// What was seen between its apps, as CSV.
    Flows,
}

/// Of so many policies one is changed.
const CHANGED: usize = 97;

/// Writes the manifests: a directory, or a file.
pub(crate) fn write(size: Size, form: Form, to: &Path) -> Result<()> {
    match form {
        Form::Repository => documents(size, &mut |place, text| {
            let file = to.join(place);
            let directory = file.parent().unwrap_or(to);
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
            let opened = fs::OpenOptions::new().create(true).append(true).open(&file);
            let written = opened.and_then(|mut file| write!(file, "---\n{text}"));
            written.with_context(|| file.display().to_string())
        }),
        Form::Bundle | Form::Changed => {
            let mut file = BufWriter::new(fs::File::create(to)?);
            let mut policies = 0;
            documents(size, &mut |_, text| {
                policies += usize::from(text.contains("kind: NetworkPolicy"));
                if form == Form::Changed && policies % CHANGED == 8 {
                    return Ok(write!(file, "---\n{}", text.replace("- port: ", "- port: 1"))?);
                }
                Ok(write!(file, "---\n{text}")?)
            })?;
            Ok(file.flush()?)
        }
        Form::Assertions => {
            let mut file = BufWriter::new(fs::File::create(to)?);
            writeln!(file, "apiVersion: podwall/v1\nkind: PolicyTest\nassertions:")?;
            for number in 0..namespaces(size) {
                let all = format!("ns-{number}/*");
                writeln!(file, "- isolated: {{pods: {all}, direction: ingress}}")?;
                let entry = "ns-2/deploy/a0";
                writeln!(
                    file,
                    "- allow: {{from: {entry}, to: ns-{number}/deploy/a3, ports: 8080}}"
                )?;
                writeln!(file, "- deny: {{from: internet, to: {all}, ports: 9090}}")?;
            }
            Ok(file.flush()?)
        }
        Form::Flows => {
            let mut file = BufWriter::new(fs::File::create(to)?);
            writeln!(file, "src,dst,protocol,port,count")?;
            for number in 0..namespaces(size) {
                let apps = apps(size, number);
                for app in 0..apps {
                    let src = format!("ns-{number}/deploy/a{app}");
                    let next = (app + 1) % apps;
                    writeln!(file, "{src},ns-{number}/deploy/a{next},TCP,8080,100")?;
                    writeln!(file, "{src},ns-0/deploy/a0,UDP,53,1000")?;
                    writeln!(file, "ns-5/deploy/a0,{src},TCP,9090,60")?;
                }
            }
            Ok(file.flush()?)
        }
        Form::Dump => {
            let mut file = BufWriter::new(fs::File::create(to)?);
            writeln!(file, "apiVersion: v1\nitems:")?;
            let mut item = |text: &str| -> Result<()> {
                for (number, line) in text.lines().enumerate() {
                    writeln!(file, "{}{line}", if number == 0 { "- " } else { "  " })?;
                }
                Ok(())
            };
            documents(size, &mut |_, text| {
                if text.contains("kind: Deployment") { Ok(()) } else { item(text) }
            })?;
            (0..size.pods).try_for_each(|number| item(&pod(number, namespaces(size))))?;
            writeln!(file, "kind: List\nmetadata:\n  resourceVersion: \"\"")?;
            Ok(file.flush()?)
        }
    }
}

fn namespaces(size: Size) -> usize {
    size.pods.div_ceil(PER_NAMESPACE)
}

/// The apps of a namespace.
fn apps(size: Size, namespace: usize) -> usize {
    (size.pods - namespace).div_ceil(namespaces(size)).div_ceil(REPLICAS)
}

/// Hands out each document, and the file that it stands in.
fn documents(size: Size, out: &mut dyn FnMut(&str, &str) -> Result<()>) -> Result<()> {
    let namespaces = namespaces(size);
    let mut dice = Dice::seeded(20_261_121);
    let mut policies: Vec<Vec<String>> = vec![Vec::new(); namespaces];
    for number in 0..size.policies {
        policies[number % namespaces].push(policy(&mut dice, number, namespaces));
    }
    for (number, policies) in policies.iter().enumerate() {
        let directory = format!("ns-{number}");
        out(&format!("{directory}/namespace.yaml"), &namespace(number))?;
        let pods = (size.pods - number).div_ceil(namespaces);
        for app in 0..apps(size, number) {
            let replicas = (pods - app * REPLICAS).min(REPLICAS);
            let text = deployment(number, app, replicas);
            let file = format!("{directory}/apps/a{app}.yaml");
            out(&file, &text)?;
            out(&file, &service(number, app))?;
        }
        out(&format!("{directory}/ingress.yaml"), &ingress(number))?;
        for (kind, text) in policies.iter().enumerate() {
            out(&format!("{directory}/policies/policy-{kind}.yaml"), text)?;
        }
    }
    Ok(())
}

fn namespace(number: usize) -> String {
    let team = number % TEAMS;
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns-{number}\n  labels:\n    team: t{team}\n"
    )
}

fn tier(app: usize) -> &'static str {
    ["front", "middle", "store"][app % 3]
}

fn deployment(namespace: usize, app: usize, replicas: usize) -> String {
    let tier = tier(app);
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata:
  name: a{app}
  namespace: ns-{namespace}
  labels:
    app: a{app}
    part-of: shop
spec:
  replicas: {replicas}
  selector:
    matchLabels:
      app: a{app}
  template:
    metadata:
      labels:
        app: a{app}
        part-of: shop
        tier: {tier}
    spec:
      serviceAccountName: a{app}
      containers:
      - name: main
        image: registry.example/shop/a{app}:1.{namespace}.0
        ports:
        - name: http
          containerPort: 8080
        - name: metrics
          containerPort: 9090
        env:
        - name: LOG_LEVEL
          value: info
        resources:
          requests:
            cpu: 100m
            memory: 128Mi
          limits:
            memory: 256Mi
        readinessProbe:
          httpGet:
            path: /ready
            port: http
        securityContext:
          allowPrivilegeEscalation: false
          runAsNonRoot: true
"
    )
}

fn service(namespace: usize, app: usize) -> String {
    let kind = if app == 0 && namespace.is_multiple_of(10) { "LoadBalancer" } else { "ClusterIP" };
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: a{app}
  namespace: ns-{namespace}
spec:
  type: {kind}
  selector:
    app: a{app}
  ports:
  - name: http
    port: 80
    targetPort: http
"
    )
}

fn ingress(namespace: usize) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: front
  namespace: ns-{namespace}
spec:
  ingressClassName: nginx
  rules:
  - host: ns-{namespace}.example.com
    http:
      paths:
      - path: /
        pathType: Prefix
        backend:
          service:
            name: a0
            port:
              number: 80
"
    )
}

/// A pod as an API server prints it.
fn pod(number: usize, namespaces: usize) -> String {
    let (namespace, index) = (number % namespaces, number / namespaces);
    let app = index / REPLICAS;
    let (tier, hash) = (tier(app), format!("{:08x}", 7919 * (namespace * 100 + app)));
    let suffix = format!("{:05x}", index * 7 + 65_537);
    let (node, uid) = (number / PER_NODE, format!("7d0f0c2e-0000-4000-8000-{number:012x}"));
    let address = format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256);
    let second = match namespace % 4 {
        0 => format!("\n  - ip: fd00::{:x}:{:x}", number / 65_536, number % 65_536),
        _ => String::new(),
    };
    let mut conditions = String::new();
    for kind in
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    {
        let _ = write!(
            conditions,
            "\n  - lastProbeTime: null\n    lastTransitionTime: \"2026-11-20T08:15:30Z\"\n    \
             status: \"True\"\n    type: {kind}"
        );
    }
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: \"2026-11-20T08:15:27Z\"
  generateName: a{app}-{hash}-
  labels:
    app: a{app}
    part-of: shop
    pod-template-hash: \"{hash}\"
    tier: {tier}
  name: a{app}-{hash}-{suffix}
  namespace: ns-{namespace}
  ownerReferences:
  - apiVersion: apps/v1
    blockOwnerDeletion: true
    controller: true
    kind: ReplicaSet
    name: a{app}-{hash}
    uid: {uid}
  resourceVersion: \"{number}\"
  uid: {uid}
spec:
  containers:
  - env:
    - name: LOG_LEVEL
      value: info
    image: registry.example/shop/a{app}:1.{namespace}.0
    imagePullPolicy: IfNotPresent
    name: main
    ports:
    - containerPort: 8080
      name: http
      protocol: TCP
    - containerPort: 9090
      name: metrics
      protocol: TCP
    readinessProbe:
      failureThreshold: 3
      httpGet:
        path: /ready
        port: http
        scheme: HTTP
      periodSeconds: 10
      successThreshold: 1
      timeoutSeconds: 1
    resources:
      limits:
        memory: 256Mi
      requests:
        cpu: 100m
        memory: 128Mi
    securityContext:
      allowPrivilegeEscalation: false
      runAsNonRoot: true
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    volumeMounts:
    - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      name: kube-api-access-x7k2p
      readOnly: true
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  nodeName: node-{node}
  preemptionPolicy: PreemptLowerPriority
  priority: 0
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {{}}
  serviceAccount: a{app}
  serviceAccountName: a{app}
  terminationGracePeriodSeconds: 30
  tolerations:
  - effect: NoExecute
    key: node.kubernetes.io/not-ready
    operator: Exists
    tolerationSeconds: 300
  - effect: NoExecute
    key: node.kubernetes.io/unreachable
    operator: Exists
    tolerationSeconds: 300
  volumes:
  - name: kube-api-access-x7k2p
    projected:
      defaultMode: 420
      sources:
      - serviceAccountToken:
          expirationSeconds: 3607
          path: token
      - configMap:
          items:
          - key: ca.crt
            path: ca.crt
          name: kube-root-ca.crt
      - downwardAPI:
          items:
          - fieldRef:
              apiVersion: v1
              fieldPath: metadata.namespace
            path: namespace
status:
  conditions:{conditions}
  containerStatuses:
  - containerID: containerd://{hash}{hash}{hash}{hash}{hash}{hash}{hash}{hash}
    image: registry.example/shop/a{app}:1.{namespace}.0
    imageID: registry.example/shop/a{app}@sha256:{hash}{hash}{hash}{hash}{hash}{hash}{hash}{hash}
    lastState: {{}}
    name: main
    ready: true
    restartCount: 0
    started: true
    state:
      running:
        startedAt: \"2026-11-20T08:15:29Z\"
  hostIP: 192.168.{}.{}
  phase: Running
  podIP: {address}
  podIPs:
  - ip: {address}{second}
  qosClass: Burstable
  startTime: \"2026-11-20T08:15:27Z\"
",
        node / 250,
        node % 250
    )
}

/// The first of a namespace's policies are those that every namespace has.
fn policy(dice: &mut Dice, number: usize, namespaces: usize) -> String {
    let (namespace, kind) = (number % namespaces, number / namespaces);
    let pods = |labels: &str| match labels {
        "" => "podSelector: {}".to_owned(),
        labels => format!("podSelector:\n    matchLabels:\n      {labels}"),
    };
    let app = |dice: &mut Dice| format!("app: a{}", dice.below(APPS - 1));
    let dns = "
  - to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: ns-0
      podSelector:
        matchLabels:
          app: a0
    ports:
    - protocol: UDP
      port: 53
    - protocol: TCP
      port: 53";
    let isolates_egress = namespace % 3 < 2;
    let (subject, ingress, egress) = match kind {
        0 => (pods(""), Some(String::new()), isolates_egress.then(String::new)),
        1 => (pods(""), None, Some(if isolates_egress { dns } else { "\n  - {}" }.to_owned())),
        2 => {
            let monitoring = "
  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: ns-5
    ports:
    - port: metrics";
            (pods(""), Some(monitoring.to_owned()), None)
        }
        3 => {
            let entry = "
  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: ns-2
      podSelector:
        matchLabels:
          tier: front
    ports:
    - port: http";
            (pods("tier: front"), Some(entry.to_owned()), None)
        }
        4 => {
            let world = "
  - to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except:
        - 10.0.0.0/8
        - 172.16.0.0/12
        - 192.168.0.0/16
    ports:
    - port: 443";
            (pods(&app(dice)), None, Some(world.to_owned()))
        }
        5 => {
            let (subject, a, b, c) =
                (app(dice), dice.between(11, 90), dice.below(256), dice.below(256));
            let block = format!(
                "
  - from:
    - ipBlock:
        cidr: {a}.{b}.{c}.0/24
    ports:
    - port: 8080"
            );
            (pods(&subject), Some(block), None)
        }
        6 => {
            let (subject, team, friend) = (app(dice), dice.below(TEAMS), app(dice));
            let friends = format!(
                "
  - from:
    - namespaceSelector:
        matchLabels:
          team: t{team}
      podSelector:
        matchLabels:
          {friend}
    ports:
    - port: http"
            );
            (pods(&subject), Some(friends), None)
        }
        7 => {
            let (subject, other, friend) = (app(dice), dice.below(namespaces), app(dice));
            let other = format!(
                "
  - to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: ns-{other}
      podSelector:
        matchLabels:
          {friend}
    ports:
    - port: 8080"
            );
            (pods(&subject), None, Some(other))
        }
        _ => {
            let (subject, friend) = (app(dice), app(dice));
            let (ingress, egress) = (dice.chance(80), dice.chance(40));
            let rule = |word: &str| {
                format!(
                    "
  - {word}:
    - podSelector:
        matchLabels:
          {friend}
    ports:
    - port: 8080"
                )
            };
            let ingress = ingress.then(|| rule("from"));
            // One that isolates in neither direction is none.
            let egress = (egress || ingress.is_none()).then(|| rule("to"));
            (pods(&subject), ingress, egress)
        }
    };
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: policy-{kind}
  namespace: ns-{namespace}
spec:
  {subject}
  policyTypes:"
    );
    for (word, rules) in [("Ingress", &ingress), ("Egress", &egress)] {
        if rules.is_some() {
            let _ = write!(text, "\n  - {word}");
        }
    }
    for (word, rules) in [("ingress", ingress), ("egress", egress)] {
        match rules {
            Some(rules) if !rules.is_empty() => drop(write!(text, "\n  {word}:{rules}")),
            _ => {}
        }
    }
    text.push('\n');
    text
}
