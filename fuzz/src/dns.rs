//! What must hold of every answer of the name server, whatever a pod sends?

use podwall_lab::dns::{DnsData, Transport, answer};

/// Asks over UDP and TCP.
pub(crate) fn check(message: &[u8]) {
    let data = DnsData::default();
    let udp = answer(message, &data, Transport::Udp);
    let tcp = answer(message, &data, Transport::Tcp);
    assert_eq!(udp.is_some(), tcp.is_some(), "the transport decides whether it is a question");
    let asked = message.get(..3);
    if asked.is_none_or(|header| header[2] & 0x80 != 0) {
        assert!(udp.is_none(), "an answer to an answer makes a loop");
    }
    for (answer, most) in [(udp, usize::from(u16::MAX)), (tcp, usize::from(u16::MAX))] {
        let Some(answer) = answer else { continue };
        assert!((12..=most).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!(answer.get(..2), message.get(..2), "an answer has its question's id");
        assert!(answer[2] & 0x80 != 0, "it says that it is an answer");
    }
}
