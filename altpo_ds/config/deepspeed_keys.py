"""The keys of a DeepSpeed file: those that a run may set, and those that it must not, each with the remedy.

Together they are all the keys that DeepSpeed reads; DeepSpeed itself ignores any other key in silence.
"""

from collections.abc import Iterator, Mapping

# A key maps to the keys inside it, or to None where it holds a value.
KeyTree = Mapping[str, "KeyTree | None"]


def _values(names: str) -> dict[str, KeyTree | None]:
    return dict.fromkeys(names.split())


ZERO_OPTIMIZATION: KeyTree = {
    **_values(
        """stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce
        allgather_partitions allgather_bucket_size overlap_comm compute_grad_norm load_from_fp32_weights
        elastic_checkpoint sub_group_size cpu_offload_param cpu_offload_use_pin_memory cpu_offload
        stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold
        stage3_max_live_parameters stage3_max_reuse_distance stage3_gather_16bit_weights_on_model_save
        stage3_module_granularity_threshold stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential
        stage3_gather_fp16_weights_on_model_save ignore_unused_parameters legacy_stage1 round_robin_gradients
        parameter_alignment zero_hpz_partition_size zero_quantized_weights zero_quantized_nontrainable_weights
        zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint override_module_apply
        log_trace_cache_warnings enable_sanity_checks save_muon_momentum_buffer_in_memory"""
    ),
    "offload_param": _values("device nvme_path buffer_count buffer_size max_in_cpu pin_memory"),
    "offload_optimizer": _values(
        """device nvme_path buffer_count pin_memory pipeline_read pipeline_write fast_init ratio super_offload
        cpuadam_cores_perc"""
    ),
    "zenflow": _values(
        """topk_ratio select_strategy select_interval update_interval overlap_step offload auto_ratio
        full_warm_up_rounds pt_reserved_cores_perc steps_per_epoch"""
    ),
    "leaf_module": _values("classes names name_suffixes"),
}

KNOWN: KeyTree = {
    **_values(
        """train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps gradient_clipping
        zero_allow_untested_optimizer zero_force_ds_cpu_optimizer steps_per_print wall_clock_breakdown
        memory_breakdown dump_state log_level disable_allgather disable_python_gc communication_data_type
        seq_parallel_communication_data_type prescale_gradients gradient_predivide_factor"""
    ),
    "zero_optimization": ZERO_OPTIMIZATION,
    "bf16": _values(
        "enabled immediate_grad_update check_grad_overflow bf16_master_weights_and_grads bf16_optimizer_states"
    ),
    "fp16": _values(
        """enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis
        min_loss_scale fp16_master_weights_and_grads"""
    ),
    "data_types": _values("grad_accum_dtype param_dtype buffer_dtype keep_in_fp32_modules"),
    "activation_checkpointing": _values(
        """partition_activations contiguous_memory_optimization cpu_checkpointing number_checkpoints profile
        synchronize_checkpoint_boundary"""
    ),
    "aio": _values("block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds"),
    "comms_logger": _values("enabled prof_all prof_ops verbose debug"),
    "flops_profiler": _values(
        "enabled recompute_fwd_factor profile_step module_depth top_modules detailed output_file"
    ),
    "tensorboard": _values("enabled output_path job_name"),
    "csv_monitor": _values("enabled output_path job_name"),
    "comet": _values(
        """enabled samples_log_interval project workspace api_key experiment_name experiment_key online mode"""
    ),
    "compile": _values(
        """deepcompile autoep_non_moe free_activation free_activation_threshold offload_activation
        offload_activation_pin_memory offload_opt_states double_buffer symmetric_memory debug_log
        offload_parameters sync_before_reduce sync_after_reduce sync_before_allgather sync_after_allgather
        keep_int_input_tensors keep_all_input_tensors passes"""
    ),
    "timers": {"throughput": _values("enabled synchronized")},
}

_NOT_OURS = "this trainer has no such feature; remove it"
REFUSED: Mapping[str, str] = {
    "checkpoint": "set checkpoints.every, checkpoints.keep and checkpoints.asynchronous in the run instead",
    "optimizer": "set train.lr, train.betas and train.weight_decay in the run instead",
    "scheduler": "set train.scheduler and train.warmup in the run instead",
    "bfloat16": 'write "bf16", or set model.dtype in the run',
    "amp": "set model.dtype in the run instead",
    "torch_autocast": "set model.dtype in the run instead",
    "wandb": "set tracking.wandb and tracking.project in the run instead",
    "gradient_allreduce_op": "the losses count on the mean over ranks; remove it",
    "managed_gradient_accumulation": "the training loop accumulates by itself; remove it",
    "elasticity": "the batch comes from train.global_batch_size and the ranks; remove it",
    "autotuning": "the batch comes from train.global_batch_size and the ranks; remove it",
    **dict.fromkeys(
        _values(
            """compression_training curriculum_learning data_efficiency dataloader_drop_last datastates_ckpt
            eigenvalue expert_parallel graph_harvesting hybrid_engine nebula pipeline progressive_layer_drop
            quantize_training sparse_attention sparse_gradients tensor_parallel
            use_data_before_expert_parallelism vocabulary_size weight_quantization"""
        ),
        _NOT_OURS,
    ),
}


def dotted(tree: KeyTree = KNOWN, prefix: str = "") -> Iterator[str]:
    """Every known key, those inside others with dots."""
    for name, inner in tree.items():
        yield prefix + name
        if inner is not None:
            yield from dotted(inner, f"{prefix}{name}.")
