//! The keys about keys and values of the provider `mlx`, with the names that mlx-lm and mlx-vlm have.

use llm_core::Result;
use mlx_backend::{KvCacheOptions, KvQuantize, KvWindow};

use crate::reader::{ConfigReader, invalid};

/// Reads how keys and values are kept. What a model has no heads for is found when it is loaded.
pub(super) fn options(reader: &mut ConfigReader) -> Result<KvCacheOptions> {
    let bits = reader.value("kv_bits", "a whole number")?;
    let group_size = reader.value("kv_group_size", "a whole number")?;
    let start_tokens = reader.value("quantized_kv_start", "a number of tokens")?;
    let usual = KvQuantize::default();
    let quantize = bits.map(|bits| KvQuantize {
        bits,
        group_size: group_size.unwrap_or(usual.group_size),
        start_tokens: start_tokens.unwrap_or(usual.start_tokens),
    });
    for (key, given) in
        [("kv_group_size", group_size.is_some()), ("quantized_kv_start", start_tokens.is_some())]
    {
        if given && quantize.is_none() {
            return Err(invalid(format!("`{key}` needs `kv_bits`")));
        }
    }
    let keep_tokens = reader.value("kv_keep_tokens", "a number of tokens")?;
    let window = reader.value("max_kv_size", "a number of tokens")?.map(|max_tokens| {
        let usual = KvWindow::new(max_tokens);
        KvWindow { keep_tokens: keep_tokens.unwrap_or(usual.keep_tokens), ..usual }
    });
    if keep_tokens.is_some() && window.is_none() {
        return Err(invalid("`kv_keep_tokens` needs `max_kv_size`"));
    }
    Ok(KvCacheOptions { quantize, window })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<KvCacheOptions> {
        options(&mut ConfigReader::new(pairs.iter().copied().collect()))
    }

    #[test]
    fn texts_are_options() {
        assert_eq!(read(&[]).unwrap(), KvCacheOptions::default());
        let found = read(&[("kv_bits", "4")]).unwrap().quantize.unwrap();
        assert_eq!((found.bits, found.group_size, found.start_tokens), (4, 64, 5000));
        let all = [("kv_bits", "8"), ("kv_group_size", "32"), ("quantized_kv_start", "0")];
        let found = read(&all).unwrap().quantize.unwrap();
        assert_eq!((found.bits, found.group_size, found.start_tokens), (8, 32, 0));
        let found = read(&[("max_kv_size", "1024")]).unwrap().window.unwrap();
        assert_eq!((found.max_tokens, found.keep_tokens), (1024, 4));
        let found = read(&[("max_kv_size", "1024"), ("kv_keep_tokens", "0")]).unwrap();
        assert_eq!(found.window.unwrap().keep_tokens, 0);
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        for (key, value, says) in [
            ("kv_bits", "four", "`kv_bits`: expected a whole number, found `four`"),
            ("kv_group_size", "64", "`kv_group_size` needs `kv_bits`"),
            ("quantized_kv_start", "0", "`quantized_kv_start` needs `kv_bits`"),
            ("kv_keep_tokens", "2", "`kv_keep_tokens` needs `max_kv_size`"),
            ("max_kv_size", "-1", "`max_kv_size`: expected a number of tokens, found `-1`"),
        ] {
            assert_eq!(read(&[(key, value)]).unwrap_err().to_string(), says);
        }
    }
}
