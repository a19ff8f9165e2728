//! What is kept of caches and comes back.

use super::*;
use crate::noise::wave;

const HOW: Attention = Attention { scale: 0.3, fused: false, window: None, together: false };

/// Has three layers with two heads of 32 values read `tokens` more.
fn read(caches: &mut Vec<KvCache>, tokens: i32) -> Vec<Array> {
    let layers = caches.len();
    (0..layers)
        .map(|layer| {
            let shape = [1, 2, tokens, 32];
            let seed = 0.1 + 0.01 * (layer as i32 + caches[layer].offset()) as f32;
            let (keys, values) = (wave(&shape, seed), wave(&shape, seed + 0.3));
            caches.attend(layer, &wave(&[1, 4, tokens, 32], 0.2), (&keys, &values), HOW).unwrap()
        })
        .collect()
}

fn packed(bits: i32, start_tokens: usize) -> KvCacheOptions {
    let quantize = Some(KvQuantize { bits, group_size: 32, start_tokens });
    KvCacheOptions { quantize, window: None }
}

fn window(max_tokens: usize) -> KvCacheOptions {
    KvCacheOptions { quantize: None, window: Some(KvWindow::new(max_tokens)) }
}

#[test]
fn what_is_copied_in_parts_comes_back_whole_and_grows_on() {
    for how in [KvCacheOptions::default(), packed(8, 0), packed(4, 0), window(300)] {
        let mut original = vec![KvCache::new(&how); 3];
        read(&mut original, 300);
        KvCache::pack_if_due(&mut original, &how).unwrap();
        assert!(KvCache::hold_all(&original));
        let parts: Vec<Array> = [0..64, 64..128, 128..290, 290..300]
            .map(|range| KvCache::copy_range(&original, range).unwrap())
            .into();
        assert_eq!(parts[2].shape()[..3], [6, 2, 162]);
        assert_eq!(KvCache::is_packed(&parts[0]), how.quantize.is_some());
        let mut restored = KvCache::restore(3, &parts, &how).unwrap();
        assert_eq!(restored[0].offset(), 300);
        for tokens in [1, 9, 1] {
            for (old, new) in read(&mut original, tokens).iter().zip(read(&mut restored, tokens)) {
                assert!(old.eq_values(new).unwrap(), "{how:?}");
            }
        }
        assert_eq!(KvCache::restore(3, &[], &how).unwrap()[2].offset(), 0);
        assert_eq!(KvCache::hold_all(&original), how.window.is_none());
    }
}

/// A sequence that grows until it is packed keeps its first blocks as they were computed.
#[test]
fn parts_from_before_and_after_packing_come_back_packed() {
    let how = packed(8, 100);
    let mut caches = vec![KvCache::new(&how); 3];
    read(&mut caches, 90);
    KvCache::pack_if_due(&mut caches, &how).unwrap();
    let first = KvCache::copy_range(&caches, 0..64).unwrap();
    assert!(!KvCache::is_packed(&first));
    read(&mut caches, 20);
    KvCache::pack_if_due(&mut caches, &how).unwrap();
    let second = KvCache::copy_range(&caches, 64..110).unwrap();
    assert!(KvCache::is_packed(&second));
    let mut restored = KvCache::restore(3, &[first.clone(), second], &how).unwrap();
    for (old, new) in read(&mut caches, 1).iter().zip(read(&mut restored, 1)) {
        assert!(old.eq_values(new).unwrap());
    }
    // What is short again is not.
    let short = KvCache::restore(3, &[first], &how).unwrap();
    assert!(matches!(short[0], KvCache::Plain(_)));
}

#[test]
fn packed_tokens_take_as_little_as_is_said() {
    let mut plain = vec![KvCache::default(); 3];
    read(&mut plain, 256);
    // Three layers, keys and values, two heads of 32 values; a scale and a bias for each 32.
    let values = 3 * 2 * 2 * 256;
    for (bits, bytes) in [(8, 32 + 8), (4, 16 + 8)] {
        let mut caches = plain.clone();
        KvCache::pack_if_due(&mut caches, &packed(bits, 256)).unwrap();
        assert_eq!(KvCache::bytes(&caches), values * bytes);
        KvCache::pack_if_due(&mut caches, &packed(bits, 256)).unwrap();
        assert_eq!(KvCache::bytes(&caches), values * bytes);
    }
}
