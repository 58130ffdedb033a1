//! What is the fingerprint of this script?
//!
//! The page allows exactly its own script and style, by their SHA-256 (CSP level 3, §8.3), so that
//! nothing that a name could smuggle in would run. One hash a page is no reason for another crate.

/// `sha256-…` as a Content-Security-Policy writes it.
pub(crate) fn source(text: &str) -> String {
    format!("'sha256-{}'", base64(&digest(text.as_bytes())))
}

/// FIPS 180-4, §6.2.
fn digest(message: &[u8]) -> [u8; 32] {
    let (mut state, round) = constants();
    let mut bytes = message.to_vec();
    let bits = (message.len() as u64).wrapping_mul(8);
    bytes.push(0x80);
    while bytes.len() % 64 != 56 {
        bytes.push(0);
    }
    bytes.extend(bits.to_be_bytes());
    for chunk in bytes.chunks(64) {
        let mut w = [0u32; 64];
        for (word, four) in w.iter_mut().zip(chunk.chunks(4)) {
            *word = four.iter().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        }
        for t in 16..64 {
            let (a, b) = (w[t - 15], w[t - 2]);
            let low = a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3);
            let high = b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10);
            w[t] = w[t - 16].wrapping_add(low).wrapping_add(w[t - 7]).wrapping_add(high);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for (word, k) in w.iter().zip(round) {
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let t1 = h.wrapping_add(s1).wrapping_add(choice).wrapping_add(k).wrapping_add(*word);
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let t2 = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
        }
        for (own, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *own = own.wrapping_add(new);
        }
    }
    let mut out = [0; 32];
    for (four, word) in out.chunks_mut(4).zip(state) {
        four.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// The first bits of the fractions of square and cube roots of primes, as §4.2.2 and §5.3.3 define
/// them, computed in whole numbers.
fn constants() -> ([u32; 8], [u32; 64]) {
    let mut primes = (2u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0));
    let first: Vec<u128> = primes.by_ref().take(64).collect();
    // The largest r whose power is at most prime · 2^(32·power), of which the last 32 bits count.
    let root = |prime: u128, power: u32| -> u32 {
        let (mut low, mut high) = (0u128, 1 << 40);
        while high - low > 1 {
            let middle = u128::midpoint(low, high);
            if middle.pow(power) <= prime << (32 * power) { low = middle } else { high = middle }
        }
        (low & 0xffff_ffff) as u32
    };
    let (mut state, mut round) = ([0; 8], [0; 64]);
    state.iter_mut().zip(&first).for_each(|(own, prime)| *own = root(*prime, 2));
    round.iter_mut().zip(&first).for_each(|(own, prime)| *own = root(*prime, 3));
    (state, round)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().enumerate().fold(0u32, |w, (i, b)| w | u32::from(*b) << (16 - 8 * i));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) as usize & 63;
            out.push(if digit > three.len() { '=' } else { char::from(DIGITS[index]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        assert_eq!(hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(
            hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        );
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
    }
}
