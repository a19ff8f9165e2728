//! Writes baseline files of random coefficients, in random codes: all that the format allows, and no encoder makes.

use std::collections::HashMap;

use super::super::baseline::ZIGZAG;

/// A generator of numbers (PCG by O'Neill, 2014), the same ones for the same seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u32 {
        let state = self.0;
        self.0 =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 18) ^ state) >> 27).rotate_right((state >> 59) as u32) as u32
    }

    /// A number from 0 to `end`, which is not among them.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What a file is to be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Factors of the first component; 0 for a grey image.
    pub(super) factors: u8,
    pub(super) restart_interval: u16,
    /// How many of 64 coefficients are there, more or less.
    pub(super) density: usize,
    /// The most bits of a coefficient.
    pub(super) size: u32,
    /// The largest quantisation step.
    pub(super) step: usize,
    /// Whether short codes go to likely symbols.
    pub(super) fair_codes: bool,
}

impl Options {
    pub(super) fn random(random: &mut Random) -> Self {
        // Large ones are decoded in two streams.
        let most = random.pick(&[70, 70, 70, 70, 70, 500]);
        Self {
            width: 1 + random.below(most),
            height: 1 + random.below(most),
            factors: random.pick(&[0, 0x11, 0x21, 0x12, 0x22, 0x22]),
            restart_interval: random.pick(&[0, 0, 0, 1, 2, 5, 200]),
            density: random.pick(&[0, 1, 4, 16, 16, 64]),
            size: random.pick(&[1, 2, 4, 7, 10]),
            step: random.pick(&[1, 16, 255]),
            fair_codes: random.below(3) > 0,
        }
    }
}

/// The file.
pub(super) fn file(options: &Options, random: &mut Random) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    let components = if options.factors == 0 { 1 } else { 3 };
    for table in 0..2 {
        let steps = (0..64).map(|_| 1 + random.below(options.step) as u8);
        segment(&mut out, 0xdb, [table].into_iter().chain(steps));
    }
    let sides = [options.height as u16, options.width as u16].map(u16::to_be_bytes);
    let mut frame = vec![8];
    frame.extend(sides.as_flattened());
    frame.push(components);
    for component in 0..components {
        let factors = if component == 0 { options.factors.max(0x11) } else { 0x11 };
        frame.extend([component + 1, factors, component.min(1)]);
    }
    segment(&mut out, random.pick(&[0xc0, 0xc1]), frame);
    let differences: Vec<u8> = (0..=11).collect();
    let mut coefficients = vec![0x00, 0xf0];
    for size in 1..=10 {
        coefficients.extend((0..16).map(|run| run << 4 | size));
    }
    let mut codes = Vec::new();
    for (class, symbols) in [(0, &differences), (0x10, &coefficients)] {
        for table in 0..2 {
            let (counts, symbols) = random_code(symbols, options.fair_codes, random);
            let body = [class | table].into_iter().chain(counts).chain(symbols.iter().copied());
            segment(&mut out, 0xc4, body);
            codes.push(canonical(&counts, &symbols));
        }
    }
    if options.restart_interval > 0 {
        segment(&mut out, 0xdd, options.restart_interval.to_be_bytes());
    }
    let mut scan = vec![components];
    scan.extend((0..components).flat_map(|at| [at + 1, at.min(1) * 0x11]));
    scan.extend([0, 63, 0]);
    segment(&mut out, 0xda, scan);
    self::scan(&mut out, options, &codes, random);
    out.extend([0xff, 0xd9]);
    out
}

fn segment(out: &mut Vec<u8>, marker: u8, body: impl IntoIterator<Item = u8>) {
    let body: Vec<u8> = body.into_iter().collect();
    out.extend([0xff, marker]);
    out.extend((body.len() as u16 + 2).to_be_bytes());
    out.extend(body);
}

/// Counts of lengths, and symbols in the order of their codes.
fn random_code(symbols: &[u8], fair: bool, random: &mut Random) -> ([u8; 16], Vec<u8>) {
    let mut left = symbols.to_vec();
    // Long runs and large sizes are rare.
    left.sort_by_key(|symbol| (symbol >> 4) + (symbol & 15));
    if !fair {
        for at in (1..left.len()).rev() {
            left.swap(at, random.below(at + 1));
        }
    }
    let mut counts = [0; 16];
    let (mut open, mut rest) = (1, left.len());
    for (length, count) in (1..=16).zip(&mut counts) {
        open *= 2;
        // Enough codes must be left for the others, and for the one that is all ones.
        let fits = |taken: usize| (open - taken) << (16 - length) > rest - taken;
        let most = (0..=rest.min(open - 1)).rev().find(|&taken| fits(taken)).expect("none fits");
        let taken = if length == 16 { rest } else { random.below(most.min(40) + 1) };
        *count = taken as u8;
        open -= taken;
        rest -= taken;
    }
    (counts, left)
}

/// Length and code of each symbol (T.81, annex C).
fn canonical(counts: &[u8; 16], symbols: &[u8]) -> HashMap<u8, (u32, u32)> {
    let (mut code, mut symbols) = (0, symbols.iter());
    let mut codes = HashMap::new();
    for (length, &count) in (1..).zip(counts) {
        for &symbol in symbols.by_ref().take(count.into()) {
            codes.insert(symbol, (length, code));
            code += 1;
        }
        code <<= 1;
    }
    codes
}

struct Bits<'a> {
    out: &'a mut Vec<u8>,
    bits: u64,
    count: u32,
}

impl Bits<'_> {
    fn put(&mut self, count: u32, bits: u32) {
        self.bits = self.bits << count | u64::from(bits & ((1 << count) - 1));
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.bits >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }

    fn value(&mut self, size: u32, value: i32) {
        self.put(size, if value < 0 { value - 1 } else { value } as u32);
    }

    fn pad(&mut self) {
        self.put((8 - self.count % 8) % 8, 0x7f);
    }
}

fn scan(
    out: &mut Vec<u8>,
    options: &Options,
    codes: &[HashMap<u8, (u32, u32)>],
    random: &mut Random,
) {
    let (h, v) = match options.factors {
        0 => (1, 1),
        factors => (usize::from(factors >> 4), usize::from(factors & 15)),
    };
    let mcus = options.width.div_ceil(8 * h) * options.height.div_ceil(8 * v);
    let mut blocks = vec![0; h * v];
    if options.factors != 0 {
        blocks.extend([1, 2]);
    }
    let mut bits = Bits { out, bits: 0, count: 0 };
    let mut predictions = [0; 3];
    for mcu in 0..mcus {
        let interval = usize::from(options.restart_interval);
        if interval > 0 && mcu > 0 && mcu % interval == 0 {
            bits.pad();
            bits.out.extend([0xff, 0xd0 + ((mcu / interval - 1) % 8) as u8]);
            predictions = [0; 3];
        }
        for &component in &blocks {
            let [dc, ac] = [component.min(1), 2 + component.min(1)].map(|table| &codes[table]);
            let block = random_block(options, random);
            let difference = block[0] - predictions[component];
            predictions[component] = block[0];
            let size = 32 - difference.unsigned_abs().leading_zeros();
            let (length, code) = dc[&(size as u8)];
            bits.put(length, code);
            bits.value(size, difference);
            let mut last = 0;
            for place in 1..64 {
                let value = block[usize::from(ZIGZAG[place])];
                if value == 0 {
                    continue;
                }
                while place - last > 16 {
                    let (length, code) = ac[&0xf0];
                    bits.put(length, code);
                    last += 16;
                }
                let size = 32 - value.unsigned_abs().leading_zeros();
                let (length, code) = ac[&(((place - last - 1) as u8) << 4 | size as u8)];
                bits.put(length, code);
                bits.value(size, value);
                last = place;
            }
            if last != 63 {
                let (length, code) = ac[&0];
                bits.put(length, code);
            }
        }
    }
    bits.pad();
}

/// Row by row; the DC coefficient so that no difference has more than 11 bits.
fn random_block(options: &Options, random: &mut Random) -> [i32; 64] {
    let mut block = [0; 64];
    for (at, value) in block.iter_mut().enumerate() {
        if at == 0 || random.below(64) < options.density {
            let size = 1 + random.below(options.size as usize);
            *value = random.below(2 << size) as i32 - (1 << size);
            *value = (*value).clamp(1 - (1 << size), (1 << size) - 1);
        }
    }
    block
}
