//! A bridge that gives every frame to everybody, and somebody who looks at what comes.
//!
//! ```text
//!   test ── frame ──▶ pod eth0 ══▶ v1 ─ (guard) ─ br0 ─ spy ══▶ spy ──▶ test
//! ```
//!
//! The bridge learns nothing, so it floods whatever a guard lets through, of any protocol. One CPU
//! carries frames in order: when the *fence* that is sent last has come, every other has come or
//! never will.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::Pid;

use super::Net;
use super::frames::{BROADCAST, IP4, Mac, ether, udp};
use super::wire::{ETH_P_ALL, frames, much_room};

const MAGIC: &[u8; 8] = b"podwall!";

pub struct Hub {
    pub node: Net,
    pub pod: Net,
    far: Net,
    into: OwnedFd,
    out: OwnedFd,
    token: u32,
    /// That of the first frame of those that were sent last.
    pub first: u32,
}

/// The pod's own: two addresses of each family, and its hardware address.
pub const OWN: [&str; 4] = ["10.0.0.11", "10.1.0.11", "fd00::b", "fd01::b"];
pub const MAC: Mac = [2, 0, 0, 0, 0, 0x11];

impl Hub {
    pub fn new() -> Self {
        let mut one = CpuSet::new();
        one.set(0).unwrap();
        // For this thread and those that it starts.
        sched_setaffinity(Pid::from_raw(0), &one).unwrap();
        let (node, pod, far) = (Net::new(), Net::new(), Net::new());
        for net in [&node, &pod, &far] {
            for which in ["all", "default"] {
                net.sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1");
            }
        }
        node.run(|| {
            for family in ["ip", "ip6", "arp"] {
                // Not there without br_netfilter.
                let _ = std::fs::write(
                    format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables"),
                    "0",
                );
            }
        });
        node.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\nlink set br0 up\n\
             link add v1 type veth peer name eth0 address 02:00:00:00:00:11 netns {}\n\
             link add spy type veth peer name spy netns {}\n",
            pod.path(),
            far.path()
        ));
        for port in ["v1", "spy"] {
            node.ip(&format!(
                "link set {port} master br0\nlink set {port} up\n\
                 link set {port} type bridge_slave learning off\n"
            ));
        }
        pod.ip("link set eth0 up\n");
        far.ip("link set spy up\n");
        let into = pod.run(|| frames("eth0", 0));
        let out = far.run(|| frames("spy", ETH_P_ALL));
        much_room(&out);
        Self { node, pod, far, into, out, token: 1, first: 1 }
    }

    /// Makes the pod's pair anew; its frames go into the new one.
    pub fn replug(&mut self, host: &str, index: Option<u32>) {
        let index = index.map(|index| format!("index {index}")).unwrap_or_default();
        self.node.ip(&format!(
            "link add {host} {index} type veth peer name eth0 address 02:00:00:00:00:11 netns {}\n\
             link set {host} master br0\nlink set {host} up\n\
             link set {host} type bridge_slave learning off\n",
            self.pod.path()
        ));
        self.pod.ip("link set eth0 up\n");
        self.into = self.pod.run(|| frames("eth0", 0));
    }

    /// Sends frames; which of them came. `fence` is one that comes.
    pub fn send_with(&mut self, all: &[Vec<u8>], fence: &[u8]) -> Vec<bool> {
        // The bridge takes up a port some time after it is up.
        self.until(fence, |_| {});
        let first = self.token;
        self.first = first;
        self.token += u32::try_from(all.len()).unwrap();
        for (frame, token) in all.iter().zip(first..) {
            self.send_one(frame, token);
        }
        let mut came = vec![false; all.len()];
        self.until(fence, |token| {
            if let Some(came) = came.get_mut(token.wrapping_sub(first) as usize) {
                *came = true;
            }
        });
        came
    }

    /// Sends the fence until it comes; the tokens that came meanwhile.
    fn until(&mut self, fence: &[u8], mut each: impl FnMut(u32)) {
        for _ in 0..5000 {
            let last = self.token;
            self.token += 1;
            self.send_one(fence, last);
            let mut seen = false;
            while let Some(token) = self.receive() {
                seen |= token == last;
                each(token);
            }
            if seen {
                return;
            }
            // Frames are on their way, and need the CPU.
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let rules = self.node.command("nft", &["list", "ruleset"]);
        panic!("no fence came out: the wiring of the test is broken\n{rules}");
    }

    /// Sends frames; which of them came. The guard, if any, must let the pod's first address pass.
    pub fn send(&mut self, all: &[Vec<u8>]) -> Vec<bool> {
        self.send_with(all, &fence())
    }

    pub fn comes(&mut self, frame: &[u8]) -> bool {
        self.send(&[frame.to_vec()]) == [true]
    }

    /// Whether a frame comes, where the guard may let nothing of the pod pass: the fence is the node's.
    /// The pod's port must have been up before.
    pub fn comes_alone(&mut self, frame: &[u8]) -> bool {
        let token = self.token;
        self.token += 1;
        self.send_one(frame, token);
        let node = self.node.run(|| frames("br0", 0));
        let pod = std::mem::replace(&mut self.into, node);
        let mut came = false;
        // Seen, the first says that the frame is past the guard, and the second that it is with the spy.
        for _ in 0..2 {
            self.until(&fence(), |found| came |= found == token);
        }
        self.into = pod;
        came
    }

    /// Sends a frame and looks no further.
    pub fn let_go(&mut self, frame: &[u8]) {
        self.send_one(frame, self.token);
        self.token += 1;
    }

    fn send_one(&self, frame: &[u8], token: u32) {
        let bytes = with_token(frame, token);
        assert_eq!(send(self.into.as_raw_fd(), &bytes, MsgFlags::empty()), Ok(bytes.len()));
    }

    fn receive(&self) -> Option<u32> {
        let mut buffer = [0; 2048];
        while let Ok(length) = recv(self.out.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            if let Some(token) = token_of(&buffer[..length]) {
                return Some(token);
            }
        }
        None
    }

    /// The number of an interface of the node.
    pub fn index(&self, name: &str) -> u32 {
        self.node.run(|| nix::net::if_::if_nametoindex(name).unwrap())
    }
}

/// A frame that a guard of the pod lets through.
pub fn fence() -> Vec<u8> {
    let own = OWN[0].parse().unwrap();
    let body = udp(own, "198.18.0.2".parse().unwrap(), (9, 9), &[]);
    ether(BROADCAST, MAC, IP4, &body)
}

/// What is behind every frame, as padding is.
pub fn with_token(frame: &[u8], token: u32) -> Vec<u8> {
    [frame, MAGIC, &token.to_be_bytes()].concat()
}

fn token_of(bytes: &[u8]) -> Option<u32> {
    let end = bytes.last_chunk::<12>()?;
    let (magic, token) = end.split_at(8);
    (magic == MAGIC).then(|| u32::from_be_bytes(token.try_into().unwrap()))
}
