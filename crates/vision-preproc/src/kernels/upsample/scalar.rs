//! The specification.

pub(super) fn h2v1(near: &[u8], to: &mut [u8], width: usize) {
    for (to, near) in to.as_chunks_mut::<2>().0.iter_mut().zip(near.windows(3)).take(width) {
        let [last, this, next] = [near[0], near[1], near[2]].map(u16::from);
        *to = [((this * 3 + last + 1) >> 2) as u8, ((this * 3 + next + 2) >> 2) as u8];
    }
}

pub(super) fn h2v2(near: &[u8], far: &[u8], to: &mut [u8], width: usize) {
    let rows = near.windows(3).zip(far.windows(3));
    for (to, (near, far)) in to.as_chunks_mut::<2>().0.iter_mut().zip(rows).take(width) {
        let column = |at: usize| u16::from(near[at]) * 3 + u16::from(far[at]);
        let [last, this, next] = [column(0), column(1), column(2)];
        *to = [((this * 3 + last + 8) >> 4) as u8, ((this * 3 + next + 7) >> 4) as u8];
    }
}
