//! Compiles the C shim around libjpeg with nothing but the C compiler that mozjpeg-sys needs anyway.

fn main() {
    println!("cargo:rerun-if-changed=src/decode/jpeg/shim.c");
    let include = std::env::var_os("DEP_JPEG_INCLUDE").expect("mozjpeg-sys names its headers");
    cc::Build::new()
        .file("src/decode/jpeg/shim.c")
        .includes(std::env::split_paths(&include))
        .warnings(true)
        .compile("vision_preproc_jpeg");
}
