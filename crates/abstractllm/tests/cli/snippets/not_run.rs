//! Command lines of documents that the tests do not run, and why.

/// Reasons, and the lines that each holds for, as they stand in the documents without comments.
pub(crate) const NOT_RUN: &[(&str, &[&str])] = &[
    (
        "it runs these tests, or builds what they are part of",
        &["cargo xtask test", "cargo xtask ci", "cargo build"],
    ),
    (
        "the tests of vision-preproc compare what it prints with the document",
        &["cargo run -p vision-preproc --example preprocess -- testdata/preproc/photos/china.jpg"],
    ),
    (
        "it takes minutes to hours, on a machine that does nothing else",
        &[
            "cargo xtask bench",
            "cargo xtask bench instructions",
            "cargo xtask bench preproc",
            "cargo xtask bench preproc --floors target/bench-preproc/images/photo_12_megapixels.jpg",
            "cargo xtask bench preproc --threads",
            "cargo bench -p perf-monitor --bench overhead",
            "cargo bench -p mlx-backend --bench recorder",
        ],
    ),
    (
        "it needs packages from the network, and minutes to hours",
        &[
            "cargo xtask bench preproc --peers",
            "abstractllm generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt \"What is the capital of France?\"",
            "cargo xtask bench generate target/7b-4bit --peers",
            "cargo xtask bench cache models/tiny-vl/full --peers",
            "python3 -m venv .venv",
            ".venv/bin/pip install -r tools/golden/preproc/requirements.txt",
            ".venv/bin/python tools/golden/preproc/make.py testdata/preproc/formats",
            "git diff --stat testdata",
            "python models/tiny-vl/train.py first --minutes 20 --tokenizer models/tiny-vl/full/tokenizer.json",
            "python models/tiny-vl/train.py second --minutes 9 --lr 0.012 --seed 2 --resume first",
            "python models/tiny-vl/evaluate.py make /tmp/scenes",
            "python models/tiny-vl/evaluate.py make /tmp/texts --kind read --text --seed 7",
            "python models/tiny-vl/evaluate.py ask /tmp/scenes /tmp/answers.jsonl -- \\\nabstractllm generate --json --temperature 0 --model models/tiny-vl/full",
            "python models/tiny-vl/evaluate.py ask /tmp/texts /tmp/read.jsonl -- \\\nabstractllm generate --json --temperature 0 --model models/tiny-vl/full",
            "pip install --target . mlx-cuda-13==0.32.2",
            "./program",
            "pip install --target libclang libclang==18.1.1",
            "LIBCLANG_PATH=$PWD/libclang/clang/native cargo run --manifest-path crates/mlx-sys/generator/Cargo.toml",
        ],
    ),
    (
        "it asks a service, or another program that serves",
        &[
            "abstractllm describe picture.png --provider openai --model gpt-5-mini",
            "abstractllm describe picture.png --provider openai --model qwen2.5vl:3b --set base_url=http://localhost:11434/v1",
        ],
    ),
    (
        "it needs a GPU, or gigabytes of memory and disk",
        &[
            "cargo xtask bench checkpoint 7b-4bit target/7b-4bit",
            "export MLX_ENABLE_TF32=0",
            "python benches/generate/parity.py target/3b testdata/preproc/photos/china.jpg 32 target/3b.safetensors",
            "CHECKPOINT=target/3b FIXTURE=target/3b.safetensors cargo test --release -p mlx-backend --lib parity -- --ignored --nocapture",
        ],
    ),
];

/// Commands that may end with another code than 0, and why.
pub(crate) const MAY_END_WITH: &[(&str, i32, &str)] = &[(
    "abstractllm report compare before/ after/ --fail-over 5%",
    1,
    "the two programs are one, but a busy machine can make one of them slower",
)];

/// Commands whose numbers depend on the machine; of these, the words that are shown are compared.
pub(crate) const OTHER_NUMBERS: &[&str] = &[
    "abstractllm check-image photo.png --model tiny-vl --max-pixels 12845056 --memory-limit 250MB",
];
