//! How are netlink messages written and read?
//!
//! ```text
//!   message   len u32 │ type u16 │ flags u16 │ seq u32 │ port u32 │ nfgenmsg │ attributes …
//!   attribute len u16 │ type u16 │ value, padded to 4 bytes; a nest's value is attributes
//! ```
//!
//! Numbers in netfilter attributes are big endian (`include/uapi/linux/netfilter/nf_tables.h`),
//! those in headers are the machine's.

/// Bytes of a netlink header and the `nfgenmsg` behind it.
pub(crate) const HEADER: usize = 20;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Messages one behind the other, as one `sendmsg` takes them.
#[derive(Default)]
pub(crate) struct Writer {
    buf: Vec<u8>,
    message: usize,
}

impl Writer {
    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Makes room for so many bytes more.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.buf.reserve(bytes);
    }

    /// Where the next byte goes, counted from the start of the message that is being written.
    pub(crate) fn offset(&self) -> usize {
        self.buf.len() - self.message
    }

    /// Starts a message; the caller closes it with [`Self::end`].
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, seq: u32, family: u8, resource: u16) {
        self.message = self.buf.len();
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&[family, 0]);
        self.buf.extend_from_slice(&resource.to_be_bytes());
    }

    /// Ends the message: its length is known now.
    pub(crate) fn end(&mut self) {
        let len = (self.buf.len() - self.message) as u32;
        self.buf[self.message..self.message + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds flags to the message that was written last.
    pub(crate) fn ask_for_answer(&mut self, flags: u16) {
        if let Some(at) = self.buf.get_mut(self.message + 6..self.message + 8) {
            let now = u16::from_ne_bytes([at[0], at[1]]);
            at.copy_from_slice(&(now | flags).to_ne_bytes());
        }
    }

    /// The rest of a header that is longer than an `nfgenmsg`.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// An attribute. Values are far below the 64 KiB that a length can say; only nests can grow.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let len = (value.len() + 4) as u16;
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    /// A big-endian 32-bit number.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// An attribute that holds these attributes.
    pub(crate) fn nested_bytes(&mut self, kind: u16, attributes: &[u8]) {
        self.put(kind | NESTED, attributes);
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.open(kind);
        fill(self);
        self.close(start);
    }

    /// Starts a nest by hand; gives what [`Self::close`] needs.
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        start
    }

    /// Bytes in the nest so far.
    pub(crate) fn nested(&self, start: usize) -> usize {
        self.buf.len() - start
    }

    /// Ends a nest.
    pub(crate) fn close(&mut self, start: usize) {
        let len = (self.buf.len() - start) as u16;
        self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// The attributes in a byte string; stops at the first that is cut short.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of a type.
    pub(crate) fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The attributes in the first nest of a type; none if it is not there.
    pub(crate) fn nest(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A big-endian number.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }
}

/// A message as it was read.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Behind the 16 bytes of the netlink header.
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes behind the `nfgenmsg`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.body.get(4..).unwrap_or_default())
    }
}

/// The messages of one datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..16)?;
        let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
        let len = word(0)? as usize;
        let message =
            Message { kind: half(4)?, flags: half(6)?, seq: word(8)?, body: self.0.get(16..len)? };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut w = Writer::default();
        for seq in [7, 8] {
            w.begin(0x0a01, 5, seq, 1, 10);
            w.text(1, "abc");
            w.nest(4, |w| {
                w.u32(1, 0x0102_0304);
                w.put(2, &[9]);
            });
            w.end();
        }
        let all: Vec<_> = Messages(w.bytes()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].kind, all[1].flags, all[1].seq), (0x0a01, 5, 8));
        let attributes = all[1].attributes();
        assert_eq!(attributes.get(1), Some(b"abc\0".as_slice()));
        assert_eq!(attributes.nest(4).u32(1), Some(0x0102_0304));
        assert_eq!(attributes.nest(4).get(2), Some([9].as_slice()));
        assert_eq!(attributes.get(9), None);
    }

    #[test]
    fn a_message_cut_short_ends_the_reading() {
        let mut w = Writer::default();
        w.begin(1, 0, 1, 1, 0);
        w.u32(1, 5);
        w.end();
        for cut in 0..w.bytes().len() {
            assert_eq!(Messages(&w.bytes()[..cut]).count(), 0, "{cut}");
        }
        let body = &w.bytes()[HEADER..];
        for cut in 0..body.len() {
            assert_eq!(Attributes(&body[..cut]).count(), 0, "{cut}");
        }
    }
}
