//! Vectors in the memory of a device: norms, biases, and the angles of the rotary position embedding.

use lem_engine::decoder::RopeTable;

use crate::backend::{Backend, Memory};
use crate::kernels::Address;

/// Vectors begin at multiples of this, as vector loads ask for.
const ALIGNMENT: usize = 16;

/// Bytes that a vector takes at most.
pub(crate) const fn padded_bytes(values: &[f32]) -> usize {
    4 * values.len() + ALIGNMENT
}

/// Vectors, collected for one upload.
pub(crate) struct Vectors {
    base: Address,
    bytes: Vec<u8>,
}

impl Vectors {
    /// Those that will be at `base`, so many bytes at most.
    pub(crate) fn new(base: Address, bytes: usize) -> Self {
        Self {
            base,
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Takes a vector; tells where it will be, which is nowhere if it is empty.
    pub(crate) fn put(&mut self, values: &[f32]) -> Address {
        if values.is_empty() {
            return 0;
        }
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        address
    }

    pub(crate) fn put_some(&mut self, values: Option<&Vec<f32>>) -> Address {
        values.map_or(0, |values| self.put(values))
    }

    /// Brings all to the device.
    pub(crate) fn upload<B: Backend>(&self, backend: &mut B) -> Result<(), B::Error> {
        backend.upload(self.base, &self.bytes)
    }
}

/// Cosines and sines of the positions that steps may have.
#[derive(Debug)]
pub(crate) struct Rope<M> {
    tables: Vec<RopeTable>,
    pub(crate) memory: M,
    /// Of each table: cosines, sines.
    pub(crate) addresses: Vec<(Address, Address)>,
}

impl<M: Memory> Rope<M> {
    pub(crate) fn new<B: Backend<Memory = M>>(
        backend: &mut B,
        tables: Vec<RopeTable>,
        positions: usize,
    ) -> Result<Self, B::Error> {
        let mut rope = Self {
            tables,
            memory: backend.allocate(0)?,
            addresses: Vec::new(),
        };
        rope.cover(backend, positions)?;
        Ok(rope)
    }

    /// Makes the tables reach so many positions.
    pub(crate) fn cover<B: Backend<Memory = M>>(&mut self, backend: &mut B, positions: usize) -> Result<(), B::Error> {
        self.tables.iter_mut().for_each(|table| table.cover(positions));
        let angles = self.tables.iter().map(RopeTable::angles);
        let bytes = angles
            .map(|(cosines, sines)| padded_bytes(cosines) + padded_bytes(sines))
            .sum();
        self.memory = backend.allocate(bytes)?;
        let mut vectors = Vectors::new(self.memory.address(), bytes);
        let angles = self.tables.iter().map(RopeTable::angles);
        self.addresses = angles
            .map(|(cosines, sines)| (vectors.put(cosines), vectors.put(sines)))
            .collect();
        vectors.upload(backend)
    }
}
