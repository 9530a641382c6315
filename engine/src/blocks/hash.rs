//! Names of blocks: a hash over the tokens from the beginning of the sequence to the end of the block.

/// Initial state of `SipHash`, from its reference implementation; the 128-bit variant changes the second word.
const INITIAL: [u64; 4] = [
    0x736f_6d65_7073_6575,
    0x646f_7261_6e64_6f6d ^ 0xee,
    0x6c79_6765_6e65_7261,
    0x7465_6462_7974_6573,
];

/// Stands for a whole prefix: all tokens up to the end of a full block, and the salt that the chain began with.
///
/// A block's hash is SipHash-2-4 with 128 bits of output over the block's tokens, keyed with the hash of the block
/// before it. With 128 bits, the chance that two different prefixes among 2^32 meet is about 2^-65, so equal hashes are
/// taken for equal prefixes and the tokens aren't compared again. It is no defence against somebody who searches for
/// collisions; the prompts of a measurement come from its own operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// Where a chain begins. Chains of different salts have no block in common.
    pub const fn root(salt: u64) -> Self {
        Self(salt as u128)
    }

    /// The hash of the block that holds `tokens` and follows the block of this hash.
    #[must_use]
    pub fn child(self, tokens: &[u32]) -> Self {
        let words = tokens.chunks(2).map(|pair| {
            // An odd token is a half word; the length in the last word tells it from a pair with a zero.
            u64::from(pair[0]) | pair.get(1).map_or(0, |&token| u64::from(token) << 32)
        });
        Self(sip_128(self.0, words, 4 * tokens.len() as u64))
    }
}

/// SipHash-2-4-128 over `words` of 8 bytes, `length` bytes in all.
///
/// Equal to the reference implementation where `length` is a multiple of 8, as it is for a block. Otherwise the rest
/// forms a word of its own instead of sharing the one of the length.
fn sip_128(key: u128, words: impl Iterator<Item = u64>, length: u64) -> u128 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mut state = [INITIAL[0] ^ low, INITIAL[1] ^ high, INITIAL[2] ^ low, INITIAL[3] ^ high];
    for word in words.chain([length << 56]) {
        state[3] ^= word;
        rounds(&mut state, 2);
        state[0] ^= word;
    }
    state[2] ^= 0xee;
    rounds(&mut state, 4);
    let first = state[0] ^ state[1] ^ state[2] ^ state[3];
    state[1] ^= 0xdd;
    rounds(&mut state, 4);
    let second = state[0] ^ state[1] ^ state[2] ^ state[3];
    u128::from(first) | u128::from(second) << 64
}

fn rounds(state: &mut [u64; 4], count: usize) {
    for _ in 0..count {
        state[0] = state[0].wrapping_add(state[1]);
        state[1] = state[1].rotate_left(13) ^ state[0];
        state[0] = state[0].rotate_left(32);
        state[2] = state[2].wrapping_add(state[3]);
        state[3] = state[3].rotate_left(16) ^ state[2];
        state[0] = state[0].wrapping_add(state[3]);
        state[3] = state[3].rotate_left(21) ^ state[0];
        state[2] = state[2].wrapping_add(state[1]);
        state[1] = state[1].rotate_left(17) ^ state[2];
        state[2] = state[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the reference implementation: the key is the bytes 0 to 15, the input the bytes 0, 1, 2, ...
    #[test]
    fn the_hash_is_the_published_one() {
        let key = u128::from_le_bytes(std::array::from_fn(|index| index as u8));
        let empty = sip_128(key, std::iter::empty(), 0);
        assert_eq!(
            empty.to_be_bytes(),
            0x9302_55c7_1472_f66d_e6a8_25ba_047f_81a3_u128.to_be_bytes()
        );
        let input = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]);
        let word = sip_128(key, [input].into_iter(), 8);
        let published = [
            0x3b, 0x62, 0xa9, 0xba, 0x62, 0x58, 0xf5, 0x61, 0x0f, 0x83, 0xe2, 0x64, 0xf3, 0x14, 0x97, 0xb4,
        ];
        assert_eq!(word.to_le_bytes(), published);
    }

    #[test]
    fn a_block_is_named_by_all_that_precedes_it() {
        let tokens = [7; 32];
        let first = BlockHash::root(1).child(&tokens);
        assert_eq!(first, BlockHash::root(1).child(&tokens));
        assert_ne!(first, BlockHash::root(2).child(&tokens), "another salt");
        assert_ne!(first, first.child(&tokens), "another depth");
        let mut other = tokens;
        other[31] = 8;
        assert_ne!(
            first.child(&tokens),
            BlockHash::root(1).child(&other).child(&tokens),
            "another parent"
        );
        assert_ne!(
            BlockHash::root(0).child(&[5]),
            BlockHash::root(0).child(&[5, 0]),
            "another length"
        );
    }
}
