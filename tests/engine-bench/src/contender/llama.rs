//! llama.cpp over its C interface, on the CPU: flash attention where it chooses it, keys and values in half precision,
//! weights repacked where it has better layouts (its defaults).
#![expect(unsafe_code, reason = "llama.cpp is a C library")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;

use llama_cpp_sys_2 as ffi;

use super::{CHUNK_TOKENS, Contender, Load};

/// What llama.cpp refused; it says why on standard error, see [`silence`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum LlamaError {
    /// The path has a zero byte.
    #[error("the path {path:?} cannot be given to a C library")]
    Path {
        /// Path.
        path: String,
    },
    /// The model.
    #[error("llama.cpp cannot load {path:?}")]
    Model {
        /// Path.
        path: String,
    },
    /// The context, which holds the key-value cache.
    #[error("llama.cpp makes no context for {rows} sequences of {positions} positions")]
    Context {
        /// Sequences.
        rows: usize,
        /// Positions of each.
        positions: usize,
    },
    /// A step.
    #[error("llama_decode of {tokens} tokens returned {code}")]
    Decode {
        /// Tokens of the batch.
        tokens: usize,
        /// What it returned.
        code: i32,
    },
    /// A text.
    #[error("llama_tokenize returned {code}")]
    Tokenize {
        /// What it returned.
        code: i32,
    },
    /// Logits that the last step did not compute.
    #[error("llama.cpp has no logits of sequence {row}")]
    Logits {
        /// Sequence.
        row: usize,
    },
}

/// llama.cpp with a model.
pub(crate) struct LlamaContender {
    model: NonNull<ffi::llama_model>,
    context: NonNull<ffi::llama_context>,
    batch: TokenBatch,
    rows: usize,
    position: usize,
    /// Index in the last batch of the token whose logits a sequence has.
    outputs: Vec<i32>,
}

impl LlamaContender {
    /// Loads the model and makes a context.
    pub(crate) fn load(load: &Load<'_>) -> Result<Self, LlamaError> {
        let path = load.path.display().to_string();
        let file =
            CString::new(load.path.as_os_str().as_bytes()).map_err(|_| LlamaError::Path { path: path.clone() })?;
        // SAFETY: the callback has the signature that is asked for and needs no data.
        unsafe { ffi::llama_log_set(Some(silence), std::ptr::null_mut()) };
        // SAFETY: no argument.
        unsafe { ffi::llama_backend_init() };
        // SAFETY: the parameters are the defaults, which have no pointers, and `file` is a C string.
        let model = unsafe {
            let mut parameters = ffi::llama_model_default_params();
            parameters.n_gpu_layers = 0;
            ffi::llama_model_load_from_file(file.as_ptr(), parameters)
        };
        let model = NonNull::new(model).ok_or(LlamaError::Model { path })?;
        // SAFETY: as above; the model lives as long as the context, see `drop`.
        let context = unsafe {
            let mut parameters = ffi::llama_context_default_params();
            // It gives each sequence this, divided by their number, and rounds that up to 256.
            parameters.n_ctx = (load.rows * load.positions.next_multiple_of(256)) as u32;
            parameters.n_batch = (load.rows * load.positions).max(CHUNK_TOKENS) as u32;
            parameters.n_ubatch = CHUNK_TOKENS as u32;
            parameters.n_seq_max = load.rows as u32;
            parameters.n_outputs_max = load.rows as u32;
            parameters.n_threads = load.threads as i32;
            parameters.n_threads_batch = load.threads as i32;
            parameters.type_k = ffi::GGML_TYPE_F16;
            parameters.type_v = ffi::GGML_TYPE_F16;
            parameters.flash_attn_type = ffi::LLAMA_FLASH_ATTN_TYPE_AUTO;
            // Sequences that share nothing are faster apart.
            parameters.kv_unified = std::env::var_os("LEM_BENCH_UNIFIED").is_some();
            parameters.no_perf = true;
            ffi::llama_init_from_model(model.as_ptr(), parameters)
        };
        let Some(context) = NonNull::new(context) else {
            // SAFETY: it was loaded above and nothing uses it.
            unsafe { ffi::llama_model_free(model.as_ptr()) };
            return Err(LlamaError::Context {
                rows: load.rows,
                positions: load.positions,
            });
        };
        Ok(Self {
            model,
            context,
            batch: TokenBatch::default(),
            rows: load.rows,
            position: 0,
            outputs: vec![-1; load.rows],
        })
    }

    /// The tokens of a text, without those that mark its beginning or end.
    pub(crate) fn tokenize(&self, text: &str) -> Result<Vec<u32>, LlamaError> {
        let mut tokens = vec![0; text.len() + 1];
        // SAFETY: the text and the room for tokens have the lengths that are given; the vocabulary belongs to the model.
        let count = unsafe {
            ffi::llama_tokenize(
                ffi::llama_model_get_vocab(self.model.as_ptr()),
                text.as_ptr().cast(),
                text.len() as i32,
                tokens.as_mut_ptr(),
                tokens.len() as i32,
                false,
                false,
            )
        };
        let count = usize::try_from(count).map_err(|_| LlamaError::Tokenize { code: count })?;
        tokens.truncate(count);
        Ok(tokens.into_iter().map(i32::cast_unsigned).collect())
    }

    fn compute(&mut self) -> Result<(), LlamaError> {
        let tokens = self.batch.tokens.len();
        let batch = self.batch.raw();
        // SAFETY: the arrays of the batch have as many elements as it has tokens, and live in `self.batch`.
        let code = unsafe { ffi::llama_decode(self.context.as_ptr(), batch) };
        // SAFETY: the context is alive. It waits for what is still being computed.
        unsafe { ffi::llama_synchronize(self.context.as_ptr()) };
        if code == 0 {
            Ok(())
        } else {
            Err(LlamaError::Decode { tokens, code })
        }
    }
}

impl Contender for LlamaContender {
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> anyhow::Result<()> {
        // SAFETY: the context is alive.
        unsafe { ffi::llama_memory_clear(ffi::llama_get_memory(self.context.as_ptr()), false) };
        self.batch.clear();
        for (row, prompt) in prompts.iter().enumerate() {
            for (position, token) in prompt.iter().enumerate() {
                self.batch.push(*token, position, row, position + 1 == prompt.len());
            }
            self.outputs[row] = self.batch.tokens.len() as i32 - 1;
        }
        self.position = prompts[0].len();
        Ok(self.compute()?)
    }

    fn decode(&mut self, tokens: &[u32]) -> anyhow::Result<()> {
        self.batch.clear();
        for (row, token) in tokens.iter().enumerate() {
            self.batch.push(*token, self.position, row, true);
            self.outputs[row] = row as i32;
        }
        self.position += 1;
        Ok(self.compute()?)
    }

    fn logits(&mut self, row: usize) -> anyhow::Result<Vec<f32>> {
        // SAFETY: the context and its model are alive; the vocabulary belongs to the model.
        let (logits, vocabulary) = unsafe {
            let vocabulary = ffi::llama_model_get_vocab(self.model.as_ptr());
            (
                ffi::llama_get_logits_ith(self.context.as_ptr(), self.outputs[row]),
                ffi::llama_vocab_n_tokens(vocabulary) as usize,
            )
        };
        if logits.is_null() {
            return Err(LlamaError::Logits { row }.into());
        }
        // SAFETY: a row of logits has one element for each entry of the vocabulary, until the next step.
        Ok(unsafe { std::slice::from_raw_parts(logits, vocabulary) }.to_vec())
    }

    fn details(&self) -> String {
        // SAFETY: it returns a C string that lives as long as the process.
        let information = unsafe { CStr::from_ptr(ffi::llama_print_system_info()) };
        format!("{} sequences, {}", self.rows, information.to_string_lossy())
    }
}

impl Drop for LlamaContender {
    fn drop(&mut self) {
        // SAFETY: both are alive and nothing uses them later; the context goes before its model.
        unsafe {
            ffi::llama_free(self.context.as_ptr());
            ffi::llama_model_free(self.model.as_ptr());
        }
    }
}

/// The arrays of a `llama_batch`.
#[derive(Debug, Default)]
struct TokenBatch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    sequence_counts: Vec<i32>,
    sequence_pointers: Vec<*mut i32>,
    outputs: Vec<i8>,
}

impl TokenBatch {
    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.sequence_counts.clear();
        self.outputs.clear();
    }

    fn push(&mut self, token: u32, position: usize, sequence: usize, output: bool) {
        self.tokens.push(token.cast_signed());
        self.positions.push(position as i32);
        self.sequences.push(sequence as i32);
        self.sequence_counts.push(1);
        self.outputs.push(i8::from(output));
    }

    /// Valid until the batch is changed.
    fn raw(&mut self) -> ffi::llama_batch {
        self.sequence_pointers.clear();
        self.sequence_pointers
            .extend(self.sequences.iter_mut().map(std::ptr::from_mut));
        ffi::llama_batch {
            n_tokens: self.tokens.len() as i32,
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.sequence_counts.as_mut_ptr(),
            seq_id: self.sequence_pointers.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}

/// Passes warnings and errors on, not the hundreds of lines about a model.
unsafe extern "C" fn silence(level: ffi::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if level == ffi::GGML_LOG_LEVEL_ERROR {
        // SAFETY: llama.cpp gives a C string.
        eprint!("llama.cpp: {}", unsafe { CStr::from_ptr(text) }.to_string_lossy());
    }
}

/// llama.cpp's version; the crate's C++ sources do not tell their commit.
pub(crate) fn version() -> String {
    // SAFETY: they return C strings that live as long as the process.
    let (version, commit) = unsafe { (CStr::from_ptr(ffi::llama_version()), CStr::from_ptr(ffi::ggml_commit())) };
    let (version, commit) = (version.to_string_lossy(), commit.to_string_lossy());
    format!("llama.cpp {version} (commit {commit})")
}
