//! What a lookup says of the next bits.

/// The bit of a place that does not exist. An entry sets it for any place if it says nothing.
pub(super) const SLOW: u32 = 64;

/// The bit of an entry's steps that says that the block ends behind them.
const END_OF_BLOCK: u32 = 128;

/// The value that `size` bits on top of `bits` stand for (`EXTEND`, T.81, F.2.2.1).
#[inline(always)]
pub(super) fn extend(bits: u64, size: u32) -> i32 {
    // Twice, since a shift by 64 is none.
    let value = bits >> 1 >> (!size & 63);
    // A first bit of 0 makes it negative.
    let least = (!bits as i64 >> 63) as u64 & !(u64::MAX << (size & 63));
    value.wrapping_sub(least) as i32
}

/// Where an entry has its steps.
pub(super) const STEPS_SHIFT: u32 = 24;

/// Steps of an entry are fewer than those of one that says nothing.
pub(super) const MAX_STEPS: u32 = SLOW - 1;

/// The most bits that an entry takes.
pub(super) const MAX_BITS: u32 = 18;

/// What the next bits come to. From the low end, 8 bits each: how many bits it takes; how many places are passed to get
/// to the first coefficient, to the second one, and to what comes next; the first coefficient; how many of the bits are to
/// be read as a number and added to the second coefficient; and then 16 bits for that. What is not there is a zero that
/// goes to a place that does not exist, or the other one again. A DC difference is one coefficient. At the end of a block
/// the highest bit of the steps is set.
///
/// An entry that must be decoded the long way leads to no place, and has length and symbol of its code in place of the
/// first coefficient and the number, or a length of 0 if the code is longer than a lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// To be decoded the long way.
    pub(super) const fn long(length: u32, symbol: u8) -> Self {
        Self((SLOW as u64) << STEPS_SHIFT | (length as u64) << 32 | (symbol as u64) << 40)
    }

    /// Two coefficients.
    pub(super) fn new(bits: u32, places: [u32; 2], values: [i32; 2]) -> Self {
        let steps = places[0] | places[1] << 8 | (places[1] + 1) << 16;
        let values = u64::from(values[0] as u8) | u64::from(values[1] as u16) << 16;
        Self(u64::from(bits) | u64::from(steps) << 8 | values << 32)
    }

    /// One coefficient, of at most [`MAX_LOOKUP_SIZE`].
    pub(super) fn one(bits: u32, run: u32, value: i32) -> Self {
        Self::new(bits, [run; 2], [value; 2])
    }

    /// One coefficient of any size.
    pub(super) fn last_of_two(bits: u32, run: u32, value: i32) -> Self {
        Self::new(bits, [SLOW, run], [0, value])
    }

    /// Two coefficients, of which the last `size` bits are the second one.
    pub(super) fn behind(bits: u32, places: [u32; 2], first: i32, size: u32) -> Self {
        Self(Self::new(bits, places, [first, 0]).0 | u64::from(size) << 40)
    }

    /// Coefficients that are not wanted.
    pub(super) fn pass(bits: u32, steps: u32) -> Self {
        Self(u64::from(bits | SLOW << 8 | SLOW << 16 | steps << STEPS_SHIFT))
    }

    /// The end of a block.
    pub(super) fn end(bits: u32) -> Self {
        Self::pass(bits, END_OF_BLOCK)
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

    /// The same, after its bits were taken.
    pub(super) fn without_bits(self) -> Self {
        Self(self.0 & !0xff)
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

    /// Both coefficients, where `bits` are those that it takes and what follows.
    #[inline(always)]
    pub(super) fn values(self, bits: u64) -> [i16; 2] {
        let size = (self.0 >> 40) as u8 as u32;
        let number = bits << (self.bits().wrapping_sub(size) & 63);
        [
            (self.0 >> 32) as i8 as i16,
            ((self.0 >> 48) as i16).wrapping_add(extend(number, size) as i16),
        ]
    }

    /// The coefficient of an entry with one that is not among its bits.
    pub(super) fn value(self) -> i16 {
        (self.0 >> 48) as i16
    }
}
