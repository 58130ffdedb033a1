//! Which addresses does the container runtime say that a pod of this node has?
//!
//! ```text
//!   CNI ADD, DEL, GC ──▶ Attachments ── addresses of a pod ──▶ compiler
//!                            └── a file each, for the next agent
//! ```
//!
//! The runtime knows a pod's address before the API server, and knows first when it is free again.
//! What it has said of a pod of this node therefore counts more than the pod's status: its addresses
//! are those that were attached, none after they were detached, and never one that was given to
//! another since.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, process};

use podwall_local::{Attachment, Notes, Sandbox};
use podwall_policy::object::Name;
use serde::{Deserialize, Serialize};

use crate::objects::PodObject;

/// What was attached. Owned by the writer; the files are there for the agent after this one.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    /// Where it is kept; `None`: nowhere.
    dir: Option<PathBuf>,
    held: BTreeMap<Sandbox, Held>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    attachment: Attachment,
    /// It was detached, and the API server still knows the pod, with an address that it no longer
    /// has.
    gone: bool,
    /// Whether the API server has known the pod.
    #[serde(default)]
    seen: bool,
    /// The API server knew the pod and does not any more. Its DEL comes; but if it never does, since
    /// somebody took the plugin away, the address is not kept from the pods that come after it.
    #[serde(default)]
    orphan: bool,
}

impl Held {
    fn pod(&self) -> Name {
        Name::new(self.attachment.namespace.as_str(), self.attachment.pod.as_str())
    }

    /// Whether it is an interface of this pod, and not of one that had its name before.
    fn is_of(&self, object: &PodObject) -> bool {
        let pod = &object.pod;
        self.attachment.namespace == *pod.name.namespace
            && self.attachment.pod == *pod.name.name
            && self.attachment.uid.as_deref().is_none_or(|uid| {
                pod.uid.as_deref().is_none_or(|known| known == uid)
                    || object.mirrors.as_deref() == Some(uid)
            })
    }
}

// === impl Attachments ===

impl Attachments {
    /// What an earlier agent kept in a directory, and what of it cannot be read.
    ///
    /// What went while no agent listened is noted elsewhere: see [`Self::read`].
    pub(crate) fn load(dir: &Path) -> io::Result<(Self, Vec<String>)> {
        fs::create_dir_all(dir)?;
        let mut all = Self { dir: Some(dir.to_path_buf()), held: BTreeMap::new() };
        let mut wrong = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != "json") {
                continue; // was being written when its agent ended
            }
            let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Held>(&text)?));
            match read {
                Ok(held) => drop(all.held.insert(held.attachment.sandbox.clone(), held)),
                Err(error) => wrong.push(format!("{}: {error}", path.display())),
            }
        }
        Ok((all, wrong))
    }

    /// Takes note of interfaces that went while no agent listened. The socket must listen already,
    /// and nobody be answered yet.
    pub(crate) fn read(&mut self, notes: &Notes) -> io::Result<()> {
        for sandbox in notes.read()? {
            self.detach(&sandbox)?;
            notes.withdraw(&sandbox)?;
        }
        Ok(())
    }

    /// Takes note of an interface. The pods whose addresses that changes.
    pub(crate) fn attach(&mut self, attachment: Attachment) -> io::Result<BTreeSet<Name>> {
        let held = Held { attachment, gone: false, seen: false, orphan: false };
        let sandbox = held.attachment.sandbox.clone();
        self.save(&held)?;
        let mut pods = BTreeSet::from([held.pod()]);
        // Whoever was said to have the addresses, here or by his status, has lost them.
        let given: BTreeSet<IpAddr> = held.attachment.addresses.iter().copied().collect();
        let old = self.held.insert(sandbox.clone(), held);
        pods.extend(old.map(|old| old.pod()));
        let losers: Vec<Sandbox> = self
            .held
            .iter()
            .filter(|(other, held)| {
                **other != sandbox && held.attachment.addresses.iter().any(|it| given.contains(it))
            })
            .map(|(other, _)| other.clone())
            .collect();
        for loser in losers {
            pods.extend(self.detach(&loser)?);
        }
        Ok(pods)
    }

    /// Takes note that an interface is gone. The pod whose addresses that changes.
    pub(crate) fn detach(&mut self, sandbox: &Sandbox) -> io::Result<Option<Name>> {
        let Some(held) = self.held.get(sandbox).filter(|held| !held.gone) else { return Ok(None) };
        let held = Held { gone: true, ..held.clone() };
        self.save(&held)?;
        let pod = held.pod();
        self.held.insert(sandbox.clone(), held);
        Ok(Some(pod))
    }

    /// The interfaces of a network that are there and not among these.
    pub(crate) fn others(&self, network: &str, valid: &[Sandbox]) -> Vec<Sandbox> {
        let valid: BTreeSet<&Sandbox> = valid.iter().collect();
        let of_it = |held: &Held| !held.gone && held.attachment.network == network;
        let live = self.held.iter().filter(|(_, held)| of_it(held));
        live.map(|(sandbox, _)| sandbox).filter(|it| !valid.contains(it)).cloned().collect()
    }

    /// Takes note of what the API server says of a pod: forgets what was detached of one that it does
    /// not know any more, or knows under another UID.
    pub(crate) fn note(&mut self, name: &Name, now: Option<&PodObject>) {
        for held in self.held.values_mut().filter(|held| !held.gone && held.pod() == *name) {
            let is = now.is_some_and(|object| held.is_of(object));
            held.orphan = held.seen && !is;
            held.seen |= is;
        }
        let over = |held: &Held| {
            held.gone && held.pod() == *name && !now.is_some_and(|object| held.is_of(object))
        };
        let files: Vec<Sandbox> = self
            .held
            .iter()
            .filter(|(_, it)| over(it))
            .map(|(sandbox, _)| sandbox.clone())
            .collect();
        for sandbox in files {
            self.held.remove(&sandbox);
            if let Some(file) = self.file(&sandbox) {
                let _ = fs::remove_file(file); // at worst it is forgotten by the next agent
            }
        }
    }

    /// The addresses that a pod of this node has, by all that is known.
    pub(crate) fn addresses(&self, object: &PodObject) -> Vec<IpAddr> {
        let of_pod = || self.held.values().filter(|held| held.is_of(object));
        if of_pod().next().is_none() {
            let mut stated = object.pod.ips.clone();
            stated.retain(|address| self.pod_at(*address).is_none());
            return stated;
        }
        let live = of_pod().filter(|held| !held.gone);
        live.flat_map(|held| held.attachment.addresses.iter().copied()).collect()
    }

    /// Whether this interface is of this pod.
    pub(crate) fn is_of(&self, sandbox: &Sandbox, object: &PodObject) -> bool {
        self.get(sandbox).is_some() && self.held.get(sandbox).is_some_and(|held| held.is_of(object))
    }

    /// What was attached, if it still is.
    pub(crate) fn get(&self, sandbox: &Sandbox) -> Option<&Attachment> {
        let held = self.held.get(sandbox).filter(|held| !held.gone)?;
        Some(&held.attachment)
    }

    /// All that is attached.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Attachment> {
        self.held.values().filter(|held| !held.gone).map(|held| &held.attachment)
    }

    /// The pod that an address was attached to.
    fn pod_at(&self, address: IpAddr) -> Option<Name> {
        let mut live = self.held.values().filter(|held| !held.gone && !held.orphan);
        live.find(|held| held.attachment.addresses.contains(&address)).map(Held::pod)
    }

    fn file(&self, sandbox: &Sandbox) -> Option<PathBuf> {
        Some(self.dir.as_ref()?.join(format!("{}-{}.json", sandbox.container, sandbox.interface)))
    }

    /// Writes it so that the next agent finds all of it or nothing.
    fn save(&self, held: &Held) -> io::Result<()> {
        let Some(file) = self.file(&held.attachment.sandbox) else { return Ok(()) };
        let new = file.with_extension(format!("{}.new", process::id()));
        fs::write(&new, serde_json::to_vec(held)?)?;
        fs::rename(&new, &file)
    }
}

/// Whether a sandbox can be a file's name: what CNI allows in a container's id and the kernel in an
/// interface's name has no `/`, but who asks is not to be trusted with paths.
pub(crate) fn is_plain(sandbox: &Sandbox) -> bool {
    let plain = |text: &str, more: &str| {
        !text.is_empty()
            && text.len() <= 128
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    plain(&sandbox.container, "_.-") && plain(&sandbox.interface, "_.-@")
}

#[cfg(test)]
mod tests {
    use podwall_policy::label::Labels;
    use podwall_policy::object::Pod;

    use super::*;

    fn mk_pod(name: &str, uid: &str, ips: &[&str]) -> PodObject {
        let pod = Pod {
            uid: Some(uid.into()),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..Pod::new("shop", name, Labels::default())
        };
        PodObject { pod, mirrors: None }
    }

    fn sandbox(container: &str) -> Sandbox {
        Sandbox { container: container.into(), interface: "eth0".into() }
    }

    fn mk_attachment(container: &str, pod: &str, uid: &str, ips: &[&str]) -> Attachment {
        Attachment {
            sandbox: sandbox(container),
            network: "pods".into(),
            namespace: "shop".into(),
            pod: pod.into(),
            uid: (!uid.is_empty()).then(|| uid.into()),
            addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            link: None,
        }
    }

    fn text(addresses: &[IpAddr]) -> String {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    fn names(names: impl IntoIterator<Item = Name>) -> String {
        names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_the_runtime_says_counts_more_than_the_status() {
        let mut all = Attachments::default();
        let fresh = mk_pod("a", "1", &[]);
        let stated = mk_pod("a", "1", &["10.0.0.9"]);
        assert_eq!(text(&all.addresses(&stated)), "10.0.0.9", "nothing was said");
        all.attach(mk_attachment("c1", "a", "1", &["10.0.0.1", "fd00::1"])).unwrap();
        assert_eq!(text(&all.addresses(&fresh)), "10.0.0.1 fd00::1", "before the status");
        assert_eq!(text(&all.addresses(&stated)), "10.0.0.1 fd00::1");
        all.detach(&sandbox("c1")).unwrap();
        assert_eq!(text(&all.addresses(&stated)), "", "detached, and the status does not know");
        all.attach(mk_attachment("c2", "a", "1", &["10.0.0.3"])).unwrap();
        assert_eq!(text(&all.addresses(&stated)), "10.0.0.3", "a new sandbox of the same pod");
    }

    #[test]
    fn an_address_that_is_given_again_is_the_new_pods() {
        let mut all = Attachments::default();
        let (old, new) = (mk_pod("old", "1", &["10.0.0.1"]), mk_pod("new", "2", &[]));
        all.attach(mk_attachment("c1", "new", "2", &["10.0.0.1"])).unwrap();
        assert_eq!(text(&all.addresses(&old)), "", "known by its status alone");
        assert_eq!(text(&all.addresses(&new)), "10.0.0.1");
        // A runtime that never said DEL.
        let touched = all.attach(mk_attachment("c2", "old", "1", &["10.0.0.1"])).unwrap();
        assert_eq!(names(touched), "shop/new shop/old");
        assert_eq!(text(&all.addresses(&new)), "");
    }

    #[test]
    fn a_pod_that_comes_again_under_its_name_is_another() {
        let mut all = Attachments::default();
        all.attach(mk_attachment("c1", "web-0", "2", &["10.0.0.2"])).unwrap();
        let before = mk_pod("web-0", "1", &["10.0.0.1"]);
        assert_eq!(text(&all.addresses(&before)), "10.0.0.1");
        assert!(!all.is_of(&sandbox("c1"), &before));
        let now = mk_pod("web-0", "2", &[]);
        assert!(all.is_of(&sandbox("c1"), &now));
        // A runtime that does not say UIDs, and a pod that its kubelet knows by another.
        all.attach(mk_attachment("c3", "web-0", "", &["10.0.0.3"])).unwrap();
        assert!(all.is_of(&sandbox("c3"), &now));
        let copy = PodObject { mirrors: Some("2".into()), ..mk_pod("web-0", "9", &[]) };
        assert!(all.is_of(&sandbox("c1"), &copy));
    }

    #[test]
    fn the_next_agent_finds_what_was_attached_and_detached() {
        let dir = tempfile::tempdir().unwrap();
        let (mut all, wrong) = Attachments::load(&dir.path().join("attachments")).unwrap();
        assert!(wrong.is_empty());
        all.attach(mk_attachment("c1", "a", "1", &["10.0.0.1"])).unwrap();
        all.attach(mk_attachment("c2", "b", "2", &["10.0.0.2"])).unwrap();
        all.detach(&sandbox("c2")).unwrap();
        fs::write(dir.path().join("attachments/x.json"), "{").unwrap();
        fs::write(dir.path().join("attachments/y.7.new"), "{").unwrap();
        let (mut next, wrong) = Attachments::load(&dir.path().join("attachments")).unwrap();
        assert_eq!(next.held, all.held);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("x.json"), "{wrong:?}");
        let b = mk_pod("b", "2", &["10.0.0.2"]);
        assert_eq!(text(&next.addresses(&b)), "");
        next.note(&b.pod.name, Some(&b));
        assert_eq!(next.held.len(), 2, "still known to the API server");
        next.note(&b.pod.name, None);
        let (last, _) = Attachments::load(&dir.path().join("attachments")).unwrap();
        assert_eq!(last.held.len(), 1);
    }

    #[test]
    fn what_went_while_no_agent_listened_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::beside(&dir.path().join("agent.sock"));
        let (mut all, _) = Attachments::load(&dir.path().join("attachments")).unwrap();
        all.attach(mk_attachment("c1", "a", "1", &["10.0.0.1"])).unwrap();
        notes.leave(&sandbox("c1")).unwrap();
        notes.leave(&sandbox("of-somebody-else")).unwrap();
        all.read(&notes).unwrap();
        assert_eq!(text(&all.addresses(&mk_pod("a", "1", &["10.0.0.1"]))), "");
        assert_eq!(notes.read().unwrap(), []);
    }

    #[test]
    fn an_attachment_whose_pod_is_gone_keeps_its_address_from_nobody() {
        let mut all = Attachments::default();
        let (old, new) = (mk_pod("old", "1", &[]), mk_pod("new", "2", &["10.0.0.1"]));
        all.attach(mk_attachment("c1", "old", "1", &["10.0.0.1"])).unwrap();
        all.note(&old.pod.name, None);
        assert_eq!(text(&all.addresses(&new)), "", "the API server has not said anything yet");
        all.note(&old.pod.name, Some(&old));
        assert_eq!(text(&all.addresses(&new)), "");
        // Deleted, and no DEL: the plugin is not there any more.
        all.note(&old.pod.name, None);
        assert_eq!(text(&all.addresses(&new)), "10.0.0.1");
        // One that comes again under its name before its object does is none of these.
        all.attach(mk_attachment("c2", "old", "3", &["10.0.0.3"])).unwrap();
        all.note(&old.pod.name, Some(&old));
        let other = mk_pod("other", "4", &["10.0.0.3"]);
        assert_eq!(text(&all.addresses(&other)), "");
    }

    #[test]
    fn a_list_of_all_names_who_is_gone() {
        let mut all = Attachments::default();
        for (container, ip) in [("c1", "10.0.0.1"), ("c2", "10.0.0.2"), ("c3", "10.0.0.3")] {
            all.attach(mk_attachment(container, container, "", &[ip])).unwrap();
        }
        all.detach(&sandbox("c3")).unwrap();
        assert_eq!(all.others("pods", &[sandbox("c1"), sandbox("c9")]), [sandbox("c2")]);
        assert_eq!(all.others("another", &[]), []);
    }

    #[test]
    fn a_sandbox_is_never_a_path() {
        let of = |container: &str, interface: &str| {
            is_plain(&Sandbox { container: container.into(), interface: interface.into() })
        };
        assert!(of("0a1b", "eth0") && of("cni_test-1.2", "net1.5@if3"));
        for (container, interface) in
            [("", "eth0"), ("a", ""), ("../a", "eth0"), ("a", "../eth0"), ("a/b", "e"), (".", "e")]
        {
            assert!(!of(container, interface), "{container:?} {interface:?}");
        }
    }
}
