use proptest::prelude::*;

use super::*;

fn hash(value: u32) -> BlockHash {
    BlockHash::root(0).child(&[value])
}

#[test]
fn the_least_recently_freed_block_is_allocated_first() {
    let mut pool = BlockPool::new(3, true);
    let blocks: Vec<u32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    assert_eq!(pool.allocate(), None, "a block was handed out twice");
    pool.release(&[blocks[1]]);
    pool.release(&[blocks[0]]);
    pool.release(&[blocks[2]]);
    assert_eq!(
        (0..3).map(|_| pool.allocate().unwrap()).collect::<Vec<_>>(),
        [blocks[1], blocks[0], blocks[2]]
    );
}

#[test]
fn the_end_of_a_sequence_is_forgotten_before_its_beginning() {
    let mut pool = BlockPool::new(3, true);
    let blocks: Vec<u32> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    pool.release(&blocks);
    assert_eq!(pool.allocate(), Some(blocks[2]));
}

#[test]
fn a_freed_block_is_found_until_it_is_allocated_again() {
    let mut pool = BlockPool::new(2, true);
    let block = pool.allocate().unwrap();
    pool.publish(block, hash(1));
    pool.release(&[block]);
    assert_eq!(pool.find(hash(1)), Some(block));
    pool.share(block);
    assert_eq!(pool.used(), 1);
    let other = pool.allocate().unwrap();
    assert_ne!(other, block, "a revived block was allocated");
    pool.release(&[block]);
    assert_eq!(pool.allocate(), Some(block));
    assert_eq!(
        pool.find(hash(1)),
        None,
        "a stale hash leads to a block with other content"
    );
    pool.check();
}

#[test]
fn a_second_block_of_the_same_content_does_not_replace_the_first() {
    let mut pool = BlockPool::new(2, true);
    let (first, second) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    pool.publish(first, hash(1));
    pool.publish(second, hash(1));
    assert_eq!(pool.find(hash(1)), Some(first));
    // Were the second one known by the hash too, allocating it would make the first one unfindable.
    pool.release(&[second]);
    assert_eq!(pool.allocate(), Some(second));
    assert_eq!(pool.find(hash(1)), Some(first));
    pool.check();
}

#[test]
fn nothing_is_found_without_prefix_caching() {
    let mut pool = BlockPool::new(1, false);
    let block = pool.allocate().unwrap();
    pool.publish(block, hash(1));
    assert_eq!(pool.find(hash(1)), None);
}

#[test]
fn promised_blocks_are_not_given_to_others() {
    let mut pool = BlockPool::new(3, true);
    assert!(pool.reserve(2));
    assert!(!pool.reserve(2));
    assert_eq!(pool.available(), 1, "a refused promise changed something");
    assert!(pool.allocate().is_some());
    assert_eq!(pool.allocate(), None);
    pool.cancel(1);
    assert!(pool.allocate().is_some());
    pool.check();
}

#[test]
fn a_peak_begins_anew_at_what_is_in_use() {
    let mut pool = BlockPool::new(3, true);
    let blocks = [pool.allocate().unwrap(), pool.allocate().unwrap()];
    pool.release(&blocks[1..]);
    assert_eq!((pool.peak(), pool.used()), (2, 1));
    pool.reset_peak();
    assert_eq!(pool.peak(), 1);
}

#[test]
fn positions_round_up_to_blocks() {
    assert_eq!([0, 1, 32, 33].map(blocks_for), [0, 1, 1, 2]);
}

proptest! {
    /// A pool against the obvious model of it: references in a list, the free list as a queue.
    #[test]
    fn a_pool_behaves_as_its_model(operations in prop::collection::vec((0..4_u8, 0..6_u32), 0..200)) {
        let mut pool = BlockPool::new(6, true);
        let mut free: Vec<u32> = (0..6).collect();
        let mut references = vec![0_u32; 6];
        for (operation, value) in operations {
            match operation {
                0 => {
                    let expected = (!free.is_empty()).then(|| free.remove(0));
                    prop_assert_eq!(pool.allocate(), expected);
                    if let Some(block) = expected {
                        references[block as usize] = 1;
                    }
                }
                1 if references[value as usize] > 0 => {
                    pool.release(&[value]);
                    references[value as usize] -= 1;
                    if references[value as usize] == 0 {
                        free.push(value);
                    }
                }
                2 => if let Some(block) = pool.find(hash(value)) {
                    pool.share(block);
                    references[block as usize] += 1;
                    free.retain(|free| *free != block);
                },
                3 if references[value as usize] > 0 => pool.publish(value, hash(value)),
                _ => {}
            }
            prop_assert_eq!(pool.references(), references.clone());
            prop_assert_eq!(pool.free_list(), free.clone());
            pool.check();
        }
    }
}
