//! What does it cost to ask user space about each new connection?
//!
//! A rule of iptables queues the first packet of every connection that the node routes; a thread
//! looks the verdict up in Podwall's own tables, which takes it about a microsecond. So what is
//! measured is the way there and back, and nothing that an engine could do better. The thread has the
//! load's processor, as everything else that an engine does: with an idle one to itself it would
//! even make connections faster, since it would take half of their work there.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use nfq::{Queue, Verdict};
use podwall_compile::tables::{NodeTables, Packet};
use podwall_lab::netns::NetNs;
use podwall_policy::port::Protocol;

use crate::load::pin;

const RULE: &str = "-t mangle -A POSTROUTING -m conntrack --ctstate NEW -j NFQUEUE --queue-num 0";

/// Starts the thread of a node.
pub(super) fn start(node: &NetNs, tables: &Arc<NodeTables>, cpu: usize) -> Result<()> {
    let mut queue = node
        .within(|| -> std::io::Result<Queue> {
            let mut queue = Queue::open()?;
            queue.bind(0)?;
            queue.set_copy_range(0, 64)?;
            queue.set_queue_max_len(0, 8192)?;
            Ok(queue)
        })?
        .context("NFQUEUE")?;
    let output = node
        .within(|| Command::new("iptables").args(RULE.split(' ')).output())?
        .context("iptables (Debian package iptables)")?;
    if !output.status.success() {
        bail!("iptables: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let tables = Arc::clone(tables);
    std::thread::Builder::new().name("queue".into()).spawn(move || {
        if pin(cpu).is_err() {
            return;
        }
        // Ends with the process: nobody closes the queue.
        while let Ok(mut message) = queue.recv() {
            let passes = packet(message.get_payload()).is_some_and(|p| tables.decide(&p).passes());
            message.set_verdict(if passes { Verdict::Accept } else { Verdict::Drop });
            if queue.verdict(message).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}

/// The fields of an IPv4 packet.
fn packet(bytes: &[u8]) -> Option<Packet> {
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let header = usize::from(bytes.first()? & 15) * 4;
    let protocol = Protocol(*bytes.get(9)?);
    let port = bytes.get(header + 2..header + 4)?;
    Some(Packet {
        src: address(12)?,
        dst: address(16)?,
        protocol,
        port: u16::from_be_bytes([port[0], port[1]]),
        from_node: false,
        to_node: false,
    })
}
