//! What a lookup says of the next bits.

/// The bit of a place that does not exist. An entry sets it for any place if it says nothing.
pub(super) const SLOW: u32 = 64;

/// The bit of an entry's steps that says that the block ends behind them.
const END_OF_BLOCK: u32 = 128;

/// Where an entry has its steps.
pub(super) const STEPS_SHIFT: u32 = 24;

/// Steps of an entry are fewer than those of one that says nothing.
pub(super) const MAX_STEPS: u32 = SLOW - 1;

/// The most bits that an entry takes.
pub(super) const MAX_BITS: u32 = 18;

/// What the next bits come to. From the low end, 8 bits each: how many bits it takes; how many places are passed to get
/// to the first coefficient, to the second one, and to what comes next; the first coefficient; nothing; and then 16 bits
/// which, with the bits that it takes as a number added, are the second coefficient, modulo 2^16. So the last bits of that
/// coefficient need not be among those of a lookup. What is not there is a zero that goes to a place that does not exist.
/// A DC difference is one coefficient. At the end of a block the highest bit of the steps is set.
///
/// An entry that must be decoded the long way leads to no place, and has length and symbol of its code above its steps, or
/// a length of 0 if the code is longer than a lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// To be decoded the long way.
    pub(super) const fn long(length: u32, symbol: u8) -> Self {
        Self((SLOW as u64) << STEPS_SHIFT | (length as u64) << 32 | (symbol as u64) << 40)
    }

    /// Two coefficients, of which the first one fits into 8 bits; `lookup` is at the top of its 64 bits.
    pub(super) fn two(lookup: u64, bits: u32, places: [u32; 2], values: [i32; 2]) -> Self {
        let steps = places[0] | places[1] << 8 | (places[1] + 1) << 16;
        let rest = (values[1] as u16).wrapping_sub(number(lookup, bits));
        let values = u64::from(values[0] as u8) | u64::from(rest) << 16;
        Self(u64::from(bits) | u64::from(steps) << 8 | values << 32)
    }

    /// One coefficient.
    pub(super) fn one(lookup: u64, bits: u32, run: u32, value: i32) -> Self {
        Self::two(lookup, bits, [SLOW, run], [0, value])
    }

    /// Coefficients that are not wanted. What it writes is no zero, but at a place that is not wanted either.
    pub(super) fn pass(bits: u32, steps: u32) -> Self {
        Self(u64::from(bits | SLOW << 8 | SLOW << 16 | steps << STEPS_SHIFT))
    }

    /// The end of a block.
    pub(super) fn end(lookup: u64, bits: u32) -> Self {
        let zero = number(lookup, bits).wrapping_neg();
        Self(Self::pass(bits, END_OF_BLOCK).0 | u64::from(zero) << 48)
    }

    /// The same as the last of its block.
    pub(super) fn last(self) -> Self {
        Self(self.0 | u64::from(END_OF_BLOCK) << 24)
    }

    fn is_long(self) -> bool {
        self.all() == SLOW
    }

    /// Whether the block ends.
    #[inline(always)]
    pub(super) fn is_end(self) -> bool {
        (self.0 as i32) < 0
    }

    /// The same, after its bits were taken; `before` are those and what followed, `after` is what follows now.
    pub(super) fn without_bits(self, before: u64, after: u64) -> Self {
        let rest = self.value(before).wrapping_sub(number(after, 0) as i16) as u16;
        Self(self.0 << 16 >> 16 & !0xff | u64::from(rest) << 48)
    }

    /// Length and symbol of its code, if it is to be decoded the long way and the code fits into a lookup.
    #[inline(always)]
    pub(super) fn code(self) -> Option<(u32, u8)> {
        let length = (self.0 >> 32) as u8;
        (self.is_long() && length > 0).then_some((length.into(), (self.0 >> 40) as u8))
    }

    /// How many bits it takes.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u8 as u32
    }

    /// Places before the first coefficient of this entry.
    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        (self.0 >> 8) as u8 as u32
    }

    /// Places before the second coefficient of this entry.
    #[inline(always)]
    pub(super) fn second(self) -> u32 {
        (self.0 >> 16) as u8 as u32
    }

    /// Places of this entry, and whether the block ends.
    #[inline(always)]
    pub(super) fn all(self) -> u32 {
        (self.0 >> 24) as u8 as u32
    }

    /// Its bits and, at [`STEPS_SHIFT`], its steps.
    #[inline(always)]
    pub(super) fn advance(self) -> u64 {
        self.0 & (0xff << STEPS_SHIFT | 0xff)
    }

    /// The first coefficient.
    #[inline(always)]
    pub(super) fn first_value(self) -> i16 {
        (self.0 >> 32) as i8 as i16
    }

    /// The second coefficient, where `bits` are those that it takes and what follows.
    #[inline(always)]
    pub(super) fn value(self, bits: u64) -> i16 {
        ((self.0 >> 48) as u16).wrapping_add(number(bits, self.bits())) as i16
    }
}

/// The first `count` bits as a number, modulo 2^16; for no bits it is any number, but always the same one.
#[inline(always)]
fn number(bits: u64, count: u32) -> u16 {
    (bits >> (count.wrapping_neg() & 63)) as u16
}

/// The value that `size` bits on top of `bits` stand for (`EXTEND`, T.81, F.2.2.1).
pub(super) fn extend(bits: u64, size: u32) -> i32 {
    // Twice, since a shift by 64 is none.
    let value = (bits >> 1 >> (63 - size)) as i32;
    // A first bit of 0 makes it negative.
    let least = if bits >> 63 == 0 { (1 << size) - 1 } else { 0 };
    value - least
}
