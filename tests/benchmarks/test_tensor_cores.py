"""I Tensor Core: ogni indizio prova ciò che dice e non di più; il verdetto non tira a indovinare.

I nomi dei kernel sono quelli che il profiler scrive, come si leggono in tracce, discussioni e
sorgenti pubblici; accanto a ogni gruppo c'è la libreria da cui vengono. Alcuni degli ignoti sono
verosimili e basta: mettono insieme parole che si contraddicono.
"""

import contextlib
import csv
import io
import json
import shutil
import stat
import sys
from math import hypot

import pytest
import torch
from pymdownx.superfences import SuperFencesException

from benchmarks import bench_tensor_cores as bench
from benchmarks import contest, counters, tensor_cores
from benchmarks.ceilings import Ceilings
from benchmarks.tensor_cores import (
    CUDA_CORES,
    HELPER,
    NO,
    PACKED_HALF,
    TENSOR,
    TENSOR_PIPE,
    UNKNOWN,
    UNPROVEN,
    YES,
    Evidence,
    cuda_core_ceiling,
    from_counters,
    from_error,
    from_kernel_names,
    from_machine_code,
    from_rate,
    kind_of,
    same_rate,
    verdict,
)
from gpu_notes.number_formats import BF16, TF32, product, quantize, relative_error
from gpu_notes.sass_listing import RECIPES, MissingToolError, read
from gpu_notes.sm_map import A100, GPUS, H100, RTX_4090, RTX_5090, peak
from weave import proofs
from weave.house import ROOT

FFMA = (
    "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8_stage3_warpsize2x2x1_ffma_aligna4"
    "_alignc4_execute_kernel__5x_cublas"
)
"""Il falso positivo di chi cerca «xmma»: cuBLAS, FP32 su CUDA core."""

NVJET = "nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_NTN"
"""Il falso negativo di chi cerca le sigle di una volta: cuBLAS 13, BF16 su Tensor Core."""

RECORDED = {
    TENSOR: [
        # cuBLAS e cuDNN, da Volta ad Ada
        "volta_h884gemm_128x64_ldg8_nn",
        "volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_tn",
        "turing_fp16_s1688gemm_fp16_128x128_ldg8_f2f_tn",
        "turing_int8_i8816gemm_int8_128x128_ldg16_nt",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x3_tn",
        "sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x64_stage6_warpsize2x2x1"
        "_tensor16x8x8_execute_kernel__5x_cublas",
        "sm89_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x64_stage3_warpsize2x2x1"
        "_tensor16x8x32_execute_kernel__5x_cublas",
        "sm80_xmma_gemm_f64f64_f64f64_f64_nn_n_tilesize128x64x16_stage3_warpsize4x2x1"
        "_tensor8x8x4_execute_kernel__5x_cublas",
        # cuBLAS e cuDNN su Hopper e Blackwell
        "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_warpgroupsize1x1x1"
        "_execute_segment_k_off_kernel__5x_cublas",
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64"
        "_warpgroupsize1x1x1_g1_execute_segment_k_off_kernel__5x_cudnn",
        NVJET,
        "nvjet_sm90_hss_320x128_64x3_1x2_h_bz_coopA_NTT",
        "nvjet_sm100_qqtst_128x256_128x6_2x1_2cta_v_bz_bias_TNT",
        "nvjet_sss_tf32_128x256_TNT",
        "nvjet_sm120_tst_mma_128x64x64_3_32x64x64_tmaAB_bz_TNNN",
        "nvjet_sm103_tst_256x256_64x4_2x2_2cta_h_bz_TNT",
        # CUTLASS 2 e 3
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>"
        "(cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8::Params)",
        "cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x2_tn_align8",
        "_ZN7cutlass7Kernel2I52cutlass_80_tensorop_d884gemm_64x64_16x3_nn_align1EEvNT_6ParamsE",
        "cutlass3x_sm90_tensorop_s64x128x16gemm_bf16_bf16_f32_bf16_bf16_128x128x64_2x1x1_0_ntn",
        "cutlass3x_sm100_tensorop_gemm_f16_f16_f32_f16_f16_128x256x64_1x2x1_0_tnn_align8",
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int>, cutlass"
        "::gemm::collective::CollectiveMma<cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<4>>>>",
        "void cutlass::device_kernel<K<cute::MMA_Atom<cute::SM80_16x8x16_F32BF16BF16F32_TN>>>(P)",
        "void cutlass::device_kernel<K<cute::MMA_Atom<cute::SM120_16x8x32_TN<e4m3, float>>>>(P)",
        "_ZN7cutlass13device_kernelI1KN4cute8MMA_AtomIJNS4_24SM120_SPARSE_16x8x64_TNINS_3eEEEE",
        "cutlass3x_sm100_sptensorop_spgemm_f16_f16_f32_f16_f16_128x128x128_2x1x1_0_tnn_align16",
        "cutlass3x_sm1xx_bstensorop_gemm_ue8m0xe4m3_ue8m0xe4m3_f32_bf16_bf16_128x128x128_tnn",
        # scale a blocchi, su Blackwell
        "cutlass3x_sm100_bstensorop_s256x256x64gemm_block_scaled_ue4m3xf4_ue4m3xf4_f32_bf16_tnn",
        "cutlass3x_sm120_bstensorop_s16864gemm_block_scaled_ue4m3xe2m1_ue4m3xe2m1_f32_bf16_tnn",
        # attenzioni fuse: FlashAttention 2 e 3, cuDNN, quella a memoria ridotta di PyTorch
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128,"
        " 4, false, false, cutlass::bfloat16_t>, false, true>(pytorch_flash::Flash_fwd_params)",
        "pytorch_flash::flash_fwd_kernel",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<int>>>(P)",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1",
        "cudnn_generated_fort_native_sdpa_sm100_flash_fprop_f16",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<int>)",
        "fmha_cutlassF_f16_aligned_64x64_rf_sm75",
        # FP32 in ingresso e Tensor Core dentro: tre prodotti TF32 (CUTLASS, OpMultiplyAddFastF32)
        "fmha_cutlassF_f32_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<float>)",
        "void cutlass::device_kernel<flash::enable_sm80_to_sm89<flash::FlashAttnFwdSm80<int>>>(P)",
        "cudnn_generated_fort_native_sdpa_sm80_flash_fprop_wmma_f16_knob_3_64x64x128_4x1x1",
        "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm100FlashAttentionForwardSm100_object_at",
        # cuDNN e TensorRT: una convoluzione con la sua relu
        "volta_fp16_s884cudnn_fp16_256x64_ldg8_relu_f2f_exp_small_nhwc_tn_v1",
        "trt_turing_h1688cudnn_256x64_ldg8_relu_exp_small_nhwc_tn_v1",
        "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32"
        "_nchw_vect_c_32_tilesize128x128x64_stage3_warpsize2x2x1_g1_tensor16x8x32_execute_kernel",
        "void xmma_cudnn::gemm::kernel<xmma_cudnn::implicit_gemm::fprop::Kernel_traits<xmma_cudnn"
        "::Ampere_hmma_tf32_traits<float, float>>>(P)",
        # CUTLASS per classi: la classe, l'atomo, il circuito di Blackwell
        "void cutlass::Kernel<tensorrt_llm::cutlass_extensions::fpA_intB_gemm<cutlass::arch::"
        "OpClassTensorOp, float>>(P)",
        "void cutlass::device_kernel<cutlass::fmha::kernel::Sm100FmhaFwdKernelTmaWarpspecialized<"
        "cute::SM100_MMA_F16BF16_SS<int>>>(P)",
        "void deep_gemm::sm100_fp8_gemm_1d1d_impl<(cute::UMMA::Major)0, (cute::UMMA::Major)0>(P)",
        "void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 4096u>(P)",
        "_ZN9deep_gemm23sm90_fp8_gemm_1d2d_implILj0ELj4096EEEvP",
        # chi nomina l'istruzione
        "void at::native::tinygemm_m16n8k16_chunk_kernel<ALayout_RM<2>>(int)",
        "void allspark::ampere_hgemm_W8A16_perc_f16_f16_hmma16816_multistage_AN_splitk_kernel<P>()",
        "void tinygemm_m16n8k16_chunk_kernel<ALayout_RM<2>, BLayout_TC_int4<4, 32>>(int)",
        "void xmma_new::gemm::kernel<xmma_new::Ampere_hmma_bf16_traits<int>>(P)",
        "my_wmma_kernel",
        "gemm_tensor_core_kernel",
    ],
    CUDA_CORES: [
        # cuBLAS e cuDNN
        FFMA,
        "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize32x32x8_stage3"
        "_warpsize1x2x1_g1_ffma_aligna4_alignc4_execute_kernel__5x_cudnn",
        "sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x8_stage3_warpsize1x2x1_ffma_cublas",
        "sm80_xmma_gemm_f32f32_f32f32_f32_nn_n_tilesize64x…",
        "ampere_sgemm_128x64_tn",
        "ampere_sgemm_32x32_sliced1x4_tn",
        "volta_sgemm_fp16_128x128_tn",
        "volta_hgemm_256x128_tn",
        "turing_fp16_sgemm_fp16_128x64_nn",
        "volta_dgemm_64x64_nn",
        "ampere_scudnn_128x64_relu_medium_nn_v1",
        "volta_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148n_nt_v1",
        "sm80_xmma_gemm_f64f64_f64f64_f64_tn_n_tilesize64x64x8_stage3_warpsize2x2x1_dfma_cublas",
        "void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1, false>(int)",
        # CUTLASS
        "void cutlass::Kernel2<cutlass_80_simt_sgemm_256x128_8x4_nt_align1>(T1::Params)",
        "cutlass3x_sm100_simt_sgemm_f32_f32_f32_f32_f32_128x128x16_1x1x1_3_tnn_align1_bias_f32_relu",
        "void cutlass::Kernel2<cutlass::gemm::kernel::DefaultGemmUniversal<cutlass::layout::"
        "RowMajor, cutlass::arch::OpClassSimt>>(P)",
        "maxwell_gcgemm_64x32_nt",
        "void sgemm_largek_lds64<true, false, 5, 5, 4, 4, 4, 32>(float*, float const*)",
        # due FMA FP32 per istruzione, su Blackwell: l'atomo di CuTe ha profondità 1
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int>, cutlass"
        "::gemm::collective::CollectiveMma<cutlass::gemm::MainloopSm80CpAsync<3>, cute::TiledMMA<"
        "cute::MMA_Atom<cute::SM100_2x1x1_F32F32F32F32>>>>>(P)",
        "_ZN7cutlass13device_kernelINS_4gemm6kernel13GemmUniversalIN4cute5tupleIJiiiiEEENS1_10"
        "collective13CollectiveMmaINS1_19MainloopSm80CpAsyncILi3EEENS4_8TiledMMAINS4_8MMA_AtomIJNS4_"
        "25SM100_1x2x1_F32F32F32F32EEEEEEEEEEvNT_6ParamsE",
        "sgemm_32x32x32_NN_vec",
        # TensorRT, con kernel compilati per chip senza Tensor Core
        "trt_maxwell_scudnn_128x32_relu_interior_nn_v1",
        "sm50_xmma_fprop_conv2d_c1_k1_f32f32_f32_f32_nchwkcrs_nchw_tilesize10x40x8_trt",
        "sm50_xmma_cublas_gemvx_f16f16_f32_f32_tn_n_int32_unit_n_launch_param4x32x32",
        # matrice per vettore
        "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128,"
        " 16, 4, 4, false, false, cublasGemvParamsEx<int>>(int)",
        "std::enable_if<!T7, void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, float>",
        "void gemmSN_TN_kernel<float, 128, 16, 2, 4, 4, 4, true, cublasGemvTensorStridedBatched>",
        "void dot_kernel<float, 128, 0, cublasDotParams<cublasGemvTensor<float const>>>(int)",
        # MAGMA, e l'attenzione a memoria ridotta prima di Ampere
        "void magma_sgemmEx_kernel<float, float, float, false, false, 6, 4, 6, 3, 4>(int)",
        "fmha_cutlassF_f32_aligned_64x64_rf_sm75",
        "fmha_cutlassB_f16_notaligned_64x64_k64_sm50",
    ],
    HELPER: [
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>(int)",
        "void cutlass::Kernel<cutlass::reduction::kernel::ReduceSplitK<cutlass::MatrixShape<4>>>",
        "Memset (Device)",
        "Memcpy DtoD (Device -> Device)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)",
        "void at::native::(anonymous namespace)::softmax_warp_forward<float, float, float, 8>(int)",
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::"
        "TensorIteratorBase&)::{lambda()#3}, c10::TensorOptions>(int)",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, MeanOps<float>>>(R)",
        "void pytorch_flash::flash_bwd_dot_do_o_kernel<true, Flash_bwd_kernel_traits<64>>(P)",
        "void flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<64, 64>>(P)",
        "triton_poi_fused_addmm_relu_0",
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "at::cuda::<unnamed>::spin_kernel(long)",
        "void cublasLt::epilogue::impl::globalKernel<8, 32, float, float>(P)",
        "void reduce_1Block_kernel<float, 128, 7, cublasGemvTensorStridedBatched<float>>(P)",
        "void at_cuda_detail::cub::DeviceScanKernel<int>(P)",
        "void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernelTemplate<float>(P)",
        "void vllm::rms_norm_kernel<c10::BFloat16>(P)",
        "cask_cudnn::computeOffsetsKernel(cask_cudnn::ComputeOffsetsParams)",
        "void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>(P)",
        "triton_red_fused_native_layer_norm_0",
        # raccolgono o convertono, con l'istruzione del kernel vicino fra gli argomenti
        "void xmma_new::gemm::split_k_kernel<xmma_new::Ampere_hmma_bf16_traits<int>>(P)",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnBwdPostprocess"
        "ConvertdQ<cute::TiledMMA<cute::MMA_Atom<cute::SM90::GMMA::MMA_64x16x16_F32BF16BF16_SS<("
        "cute::SM90::GMMA::Major)0>>>>>>(P)",
        "void cutlass::device_kernel<flash::FlashAttnBwdPreprocess<cutlass::half_t>>(P)",
        "kernel_cutlass_kernel_flash_attncuteflash_bwd_postprocessFlashAttentionBackwardPostprocess",
        "void flash_fwd_mla_combine_kernel<cutlass::bfloat16_t, float, long, 512, 128>(P)",
    ],
    UNKNOWN: [
        "linear_kernel",
        "attention_kernel",
        "triton_tem_fused_mm_3",
        "_attn_fwd",
        "cudnn_generated_matMul_pointWise",
        "void gemm_naive(float const*, float const*, float*, int)",
        "gemm_bf16_m128n64k32",
        "softmax_matmul_fused",
        "hgemm_wmma_or_simt",
        "Cijk_Ailk_Bljk_HHS_BH_MT128x128x32_MI16x16x16x1",
        "nvjet_sm100_sss_128x64_64x7_2x1_v_bz_TNN",
        # prodotti con una parola di servizio: FlashInfer, Transformer Engine, Mamba, altri
        "void flashinfer::BatchPrefillWithPagedKVCacheKernel<flashinfer::KernelTraits<1>>(P)",
        "void flashinfer::SinglePrefillWithKVCacheKernel<flashinfer::KernelTraits<1>>(P)",
        "void transformer_engine::HadamardTransformKernel<int>",
        "_chunk_scan_fwd_kernel",
        "fp8_index_kernel_",
        "dequantize_mma",
        "mma_softmax_kernel",
        "ffn_gelu_kernel",
        "qkv_proj_bias_kernel",
        "expert_gate_up_silu_kernel",
        "mha_varlen_fwd_padded",
        "patch_embedding_kernel",
        "gemm_memcpy_async_kernel",
        "wmma_gemm_memcpy_async_kernel",
        "triton_red_fused_mm_0",
        "triton_per_fused_bmm_3",
        "triton_tem_fused_convert_element_type_7",
        # prodotti con una sigla che fa pensare ai CUDA core: SGLang, AllSpark in vLLM, altri
        "_sgemm_lora_a_kernel",
        "_gemv_kernel",
        "ampere_hgemm_W8A16_perc_f16_f16_MtilexNtilex32",
        "ring_buffmanager_linear",
        # lavori di servizio con la sigla di un'istruzione: PyTorch, altri
        "void at::native::matrix_to_m16n8k16_Bint4_layout<4>(P)",
        "void at::native::vectorized_elementwise_kernel<4, tensorop_epilogue>(int)",
        "void apply_kernel<at::TensorOp<float>>(P)",
        "TensorOps",
        "TensorOptimizerStep",
        "cast_to_wmma_layout_kernel",
        "swizzle_scale_for_tcgen05",
        "pad_for_tensorcore_gemm_kernel",
        # la piastrella sembra un'istruzione, la negazione una conferma
        "sm80_gemm_128x128x32_f32_kernel",
        "gemm_no_tensor_core_kernel",
        "gemm_notensorcore_kernel",
        "gemm_tensor_cores_off",
        "void gemm<UseTensorCores=false>(P)",
        # CuTe senza Tensor Core: l'atomo è una FMA
        "void gemm_device<cute::TiledMMA<cute::MMA_Atom<cute::UniversalFMA<float, float>>>>(P)",
    ],
}
"""Che cosa si può dire di un kernel dal solo nome."""

EVERY_NAME = [(name, kind) for kind, names in RECORDED.items() for name in names]


# I nomi.


@pytest.mark.parametrize(("name", "kind"), EVERY_NAME)
def test_a_kernel_name_says_what_it_can(name, kind):
    assert kind_of(name) == kind
    assert kind_of(name.upper()) == kind


def test_one_tensor_core_kernel_is_enough_and_is_named():
    found = from_kernel_names(["Memset (Device)", "ampere_sgemm_128x64_tn", NVJET, NVJET])
    assert found.says == YES
    assert found.reason == f"{NVJET} ({TENSOR}); ampere_sgemm_128x64_tn ({CUDA_CORES})"


def test_names_say_no_only_if_every_product_is_known():
    helpers = RECORDED[HELPER]
    assert from_kernel_names([FFMA, *helpers]).says == NO
    assert from_kernel_names([FFMA, "linear_kernel", *helpers]).says == UNPROVEN


@pytest.mark.parametrize("name", RECORDED[UNKNOWN])
def test_a_doubtful_name_never_decides(name):
    assert from_kernel_names([name]).says == UNPROVEN
    assert from_kernel_names(["ampere_sgemm_128x64_tn", name]).says == UNPROVEN


@pytest.mark.parametrize("names", [[], RECORDED[HELPER]])
def test_without_a_product_names_prove_nothing(names):
    found = from_kernel_names(names)
    assert (found.says, found.reason) == (UNPROVEN, "nessun kernel che moltiplichi matrici")


def test_an_unknown_name_is_shown_not_guessed():
    found = from_kernel_names(iter(["linear_kernel"]))
    assert (found.says, found.reason) == (UNPROVEN, f"linear_kernel ({UNKNOWN})")


def test_long_names_are_cut_in_the_reason():
    name = "nvjet_" + "x" * 500
    reason = from_kernel_names([name]).reason
    assert f"{name[:119]}… ({TENSOR})" == reason


# Il ritmo.


def test_a_rate_above_the_cuda_cores_proves_them_and_below_proves_nothing():
    ceiling = cuda_core_ceiling(H100, "TF32")
    assert ceiling == pytest.approx(66.9e12, rel=1e-3)
    assert from_rate(1.03 * ceiling, ceiling).says == YES
    assert from_rate(1.01 * ceiling, ceiling).says == UNPROVEN
    assert "sotto non prova nulla" in from_rate(1e12, ceiling).reason
    assert from_rate(300e12, ceiling).reason == "300,0 TFLOP/s, il tetto dei CUDA core è 66,9"


def test_half_precision_has_a_higher_ceiling_outside_the_tensor_cores():
    assert cuda_core_ceiling(A100, "FP16") == 4 * cuda_core_ceiling(A100, "FP32")
    assert cuda_core_ceiling(H100, "BF16") == 2 * peak(H100, "FP32")
    found = from_rate(100e12, cuda_core_ceiling(H100, "BF16"))
    assert found.says == UNPROVEN  # sopra i 66,9 di FP32, ma due FP16 per corsia ci arrivano


def test_a_card_that_can_run_faster_than_declared_raises_the_ceiling():
    declared = cuda_core_ceiling(RTX_4090, "FP32")
    assert cuda_core_ceiling(RTX_4090, "FP32", 3.105e9) == pytest.approx(declared * 3.105 / 2.52)
    assert cuda_core_ceiling(RTX_4090, "FP32", 1e9) == declared


def test_a_clock_that_was_not_read_is_supposed_half_as_high_again():
    """Una RTX 4090 va oltre la frequenza dichiarata: 85 TFLOP/s in FP32 non provano nulla."""
    known, unread = (
        Ceilings({}, {}, 1e12, RTX_4090, clocks) for clocks in ({"sm_max_mhz": 2520.0}, {})
    )
    assert bench.rate_evidence("FP32", 85e12, known).says == YES
    assert bench.rate_evidence("FP32", 85e12, unread).says == UNPROVEN
    assert bench.rate_evidence("FP32", 130e12, unread).says == YES


def test_where_the_peaks_are_equal_no_rate_is_a_proof():
    assert {gpu.name for gpu in GPUS if same_rate(gpu, "TF32")} == {
        "RTX 3090",
        "RTX 4090",
        "RTX 5090",
    }
    assert not any(same_rate(gpu, "FP32") for gpu in GPUS)
    assert same_rate(RTX_5090, "BF16")
    assert not same_rate(RTX_5090, "FP8")
    ceiling = cuda_core_ceiling(RTX_5090, "TF32")
    found = from_rate(0.9 * ceiling, ceiling, unreachable=True)
    assert (found.says, "non hanno di più" in found.reason) == (UNPROVEN, True)


def test_without_a_known_card_the_rate_proves_nothing():
    assert from_rate(9e14, None).says == UNPROVEN


# I contatori.

CYCLES = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"


def hopper(**counts):
    """I contatori di una H100: un'operazione per nome, zero se non è data; poi il totale."""
    named = dict.fromkeys(("dmma", "gmma", "hmma", "imma"), 0.0) | counts
    found = {f"{TENSOR_PIPE}_op_{name}.sum": value for name, value in named.items()}
    return found | {f"{TENSOR_PIPE}.sum": sum(found.values())}


def test_counters_tell_how_many_instructions_and_for_how_long():
    found = from_counters({**hopper(gmma=5000.0), CYCLES: 71.26}, products=10**9)
    assert found.says == YES
    assert found.reason == "5000 GMMA, pipe attiva per il 71,3 % dei cicli"


def test_zero_instructions_is_a_no():
    found = from_counters({**hopper(), CYCLES: 0.0})
    assert (found.says, found.reason) == (NO, "0 istruzioni, pipe attiva per il 0,0 % dei cicli")
    assert from_counters({f"{TENSOR_PIPE}.sum": 0.0}).says == NO


def test_without_the_total_counters_never_say_no():
    """Potrebbe mancare proprio il contatore di chi ha lavorato."""
    for counts, products in (({}, 1), ({"hmma": 3.0}, 10**9)):
        values = hopper(**counts)
        assert from_counters(values, products=products).says == NO
        del values[f"{TENSOR_PIPE}.sum"]
        assert from_counters(values, products=products).says == UNPROVEN


def test_packed_half_instructions_pass_there_but_are_not_matrices():
    moved = {PACKED_HALF + ".sum": 400.0}
    assert from_counters({**hopper(hmma=400.0), **moved}).says == NO
    assert from_counters({f"{TENSOR_PIPE}.sum": 400.0, **moved}).says == NO
    mixed = from_counters({**hopper(hmma=900.0), **moved})
    assert (mixed.says, mixed.reason) == (YES, "500 HMMA")


def test_on_hopper_every_gmma_is_also_among_the_hmma():
    """Come ncu le dà su una H200; non contano due volte."""
    total = {f"{TENSOR_PIPE}.sum": 18_432.0}
    found = from_counters({**hopper(hmma=18_432.0, gmma=18_432.0), **total})
    assert found.reason == "18432 GMMA"
    total[f"{TENSOR_PIPE}.sum"] = 18_442.0
    mixed = from_counters({**hopper(hmma=18_442.0, gmma=18_432.0), **total})
    assert mixed.reason == "18432 GMMA, 10 HMMA"


def test_too_few_instructions_cannot_have_made_the_product():
    m, k, n = 10, 768, 3072
    needed = m * k * n // (16 * 8 * 32)
    few = from_counters(hopper(hmma=needed - 1.0), products=m * k * n)
    assert (few.says, "troppo poche" in few.reason) == (NO, True)
    assert from_counters(hopper(hmma=needed + 0.0), products=m * k * n).says == YES
    assert from_counters(hopper(hmma=1.0)).says == YES


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("dmma", 16 * 8 * 16),  # mma.m16n8k16 in FP64
        ("hmma", 16 * 8 * 32),  # mma.sp.m16n8k32 in FP16
        ("gmma", 64 * 256 * 64),  # wgmma.sp.m64n256k64 in FP8
        ("imma", 64 * 256 * 256),  # wgmma.m64n256k256 fra bit
    ],
)
def test_no_class_of_instructions_says_yes_without_being_enough(name, products):
    assert from_counters(hopper(**{name: 3.0}), products=3 * products).says == YES
    assert from_counters(hopper(**{name: 3.0}), products=3 * products + 1).says == NO


def test_one_stray_instruction_of_another_class_does_not_make_ten_enough():
    found = from_counters(hopper(hmma=10.0, imma=1.0), products=10**12)
    assert found.says == NO
    assert found.reason == "10 HMMA, 1 IMMA: troppo poche per 1000000000000 moltiplicazioni"


def test_operations_without_a_counter_of_their_own_are_seen_in_the_total():
    values = {**hopper(hmma=10.0), f"{TENSOR_PIPE}.sum": 5010.0}
    found = from_counters(values, products=10**9)
    assert (found.says, found.reason) == (YES, "10 HMMA, 5000 altre")
    assert from_counters(values, products=10**12).says == UNPROVEN


def test_the_total_alone_may_be_packed_half_instructions():
    found = from_counters({f"{TENSOR_PIPE}.sum": 24576.0}, products=10**12)
    assert (found.says, "24576 in tutto: troppo poche" in found.reason) == (UNPROVEN, True)
    m, k, n = 1024, 768, 3072
    moved = {f"{TENSOR_PIPE}.sum": 6144.0}  # una per warp di `rosetta.linear`
    assert from_counters(moved, products=m * k * n).says == UNPROVEN
    enough = {f"{TENSOR_PIPE}.sum": m * k * n / (16 * 8 * 32)}
    assert from_counters(enough, products=m * k * n).says == YES


def test_blackwell_counts_by_part_of_the_pipe():
    part = f"{TENSOR_PIPE}_subpipe_hmma"
    values = {f"{part}.sum": 300.0, f"{part}_op_hmma.sum": 100.0, f"{TENSOR_PIPE}.sum": 300.0}
    found = from_counters(values, products=300 * 256 * 256 * 128)  # tcgen05, FP4, due SM
    assert (found.says, found.reason) == (YES, "300 SUBPIPE HMMA")
    assert from_counters(values, products=300 * 256 * 256 * 128 + 1).says == NO
    assert from_counters({f"{part}.sum": 0.0, f"{TENSOR_PIPE}.sum": 0.0}).says == NO


def test_zero_instructions_on_a_busy_pipe_is_a_missing_counter():
    assert from_counters({**hopper(), CYCLES: 71.3}).says == UNPROVEN
    moved = {**hopper(hmma=400.0), f"{PACKED_HALF}.sum": 400.0, CYCLES: 0.2}
    assert from_counters(moved).says == NO


@pytest.mark.parametrize("values", [{}, {CYCLES: 40.0}])
def test_without_the_count_of_instructions_counters_prove_nothing(values):
    assert from_counters(values).says == UNPROVEN


def test_unread_counters_say_why():
    found = from_counters(None, "ncu non è installato")
    assert (found.says, found.reason) == (UNPROVEN, "ncu non è installato")


# L'errore.


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float32).double()


def truncated(x, fmt):
    """Le cifre di troppo cadono: la strada più rozza che un Tensor Core possa prendere."""
    bits = x.float().view(torch.int32)
    return (bits & ~((1 << (23 - fmt.mantissa_bits)) - 1)).view(torch.float32).double()


@pytest.mark.parametrize("depth", [64, 768, 3072, 25_000])
def test_tf32_products_are_told_from_fp32_at_every_depth(depth):
    x, w = normal(16, depth), normal(16, depth)
    exact = x @ w.T
    ieee = (x.float() @ w.float().T).double()
    rounded = product(x, w, TF32)
    cut = (truncated(x, TF32).float() @ truncated(w, TF32).float().T).double()
    assert from_error(relative_error(ieee, exact), depth).says == UNPROVEN
    assert from_error(relative_error(rounded, exact), depth).says == YES
    assert from_error(relative_error(cut, exact), depth).says == YES


def test_the_slowest_fp32_sum_is_still_fp32():
    depth = 4096
    x, w = torch.randn(8, depth), torch.randn(8, depth)
    total = torch.zeros(8, 8)
    for k in range(depth):  # un addendo per volta: l'ordine che sbaglia di più
        total += x[:, k, None] * w[None, :, k]
    error = relative_error(total.double(), x.double() @ w.double().T)
    assert "da FP32" in from_error(error, depth).reason


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_a_result_that_is_not_a_number_proves_nothing(error):
    assert from_error(error, 768).says == UNPROVEN


def test_three_tf32_products_look_like_fp32_so_a_small_error_is_not_a_no():
    x, w = normal(16, 768), normal(16, 768)
    high_x, high_w = quantize(x, TF32), quantize(w, TF32)
    low_x, low_w = quantize(x - high_x, TF32), quantize(w - high_w, TF32)
    parts = ((low_x, high_w), (high_x, low_w), (high_x, high_w))
    summed = sum(a.float() @ b.float().T for a, b in parts)
    error = relative_error(summed.double(), x @ w.T)
    assert error < 1e-6
    found = from_error(error, 768)
    assert (found.says, "non tre sommati" in found.reason) == (UNPROVEN, True)


def test_bf16_on_fp32_operands_is_neither():
    x, w = normal(16, 768), normal(16, 768)
    found = from_error(relative_error(product(x, w, BF16), x @ w.T), 768)
    assert (found.says, "né da FP32 né da TF32" in found.reason) == (UNPROVEN, True)


@pytest.mark.parametrize("form", ["BF16", "FP16", "FP8"])
def test_narrow_operands_hide_who_multiplied_them(form):
    found = from_error(3e-4, 768, form)
    assert (found.says, form in found.reason) == (UNPROVEN, True)


@pytest.mark.parametrize(
    ("error", "says"),
    [(5e-5, UNPROVEN), (1.2e-4, YES), (1.5e-3, YES), (1.7e-3, UNPROVEN), (2e-6, UNPROVEN)],
)
def test_the_tf32_band_has_edges(error, says):
    assert from_error(error, 768).says == says


def test_small_integers_hide_the_tf32():
    x, w = (torch.randint(-8, 9, (16, 768)).double() for _ in range(2))
    assert relative_error(product(x, w, TF32), x @ w.T) == 0


def test_errors_read_as_in_italian():
    assert from_error(2.93e-4, 768).reason.startswith("errore relativo 2,9·10⁻⁴, da TF32")


# Il codice macchina.


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_machine_code_says_yes_where_the_source_asks_for_tensor_cores(recipe):
    expected = recipe.source in {"wmma.cu", "mma_formats.cu", "wgmma.cu", "tcgen05.cu"} or (
        recipe.source == "tile.triton"
    )
    found = from_machine_code(read(recipe.name.removesuffix(".sass")))
    assert found.says == (YES if expected else NO)


def test_machine_code_counts_what_it_found():
    assert "HGMMA" in from_machine_code(read("wgmma.sm_90a")).reason
    said = from_machine_code(read("matmul_half.sm_90"))
    assert (said.says, "nessuna fra" in said.reason) == (NO, True)


UNREAD = "k:\n  /*0000*/ nuova sintassi\n"
"""Un listing scritto in un modo che non si conosce."""


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        (UNREAD, "righe non capite: 1"),
        (f"{UNREAD}  /*0010*/ FFMA R1, R2, R3, R1 ;\n", "righe non capite: 1"),
        ("k:\n", "il listing non contiene istruzioni"),
    ],
)
def test_an_unread_listing_proves_nothing(listing, reason):
    found = from_machine_code(listing)
    assert (found.says, found.reason) == (UNPROVEN, reason)
    read_after_all = from_machine_code(f"{listing}  /*0020*/ HMMA.16816.F32 R4, R8, R12, R4 ;\n")
    assert (read_after_all.says, read_after_all.reason) == (YES, "1 HMMA")


def test_closed_libraries_have_no_listing():
    assert from_machine_code(None).reason == "il kernel è di una libreria chiusa"


# Il verdetto.


def said(*answers):
    return [Evidence(f"indizio {place}", says, "") for place, says in enumerate(answers)]


@pytest.mark.parametrize(
    ("answers", "expected", "reason"),
    [
        ((YES, UNPROVEN, UNPROVEN), YES, "lo dicono: indizio 0"),
        ((UNPROVEN, YES, YES), YES, "lo dicono: indizio 1, indizio 2"),
        ((UNPROVEN, NO), NO, "lo dicono: indizio 1"),
        ((UNPROVEN, UNPROVEN), UNPROVEN, "nessun indizio decide"),
        ((), UNPROVEN, "nessun indizio decide"),
        (
            (NO, YES, UNPROVEN, YES),
            UNPROVEN,
            "si contraddicono: dicono sì indizio 1, indizio 3; dicono no indizio 0",
        ),
    ],
)
def test_verdict_needs_a_voice_and_no_contradiction(answers, expected, reason):
    found = verdict(said(*answers))
    assert (found.says, found.reason) == (expected, reason)


def test_a_wrong_name_is_caught_by_the_other_evidence():
    liar = from_kernel_names([FFMA])
    found = verdict([liar, from_error(2.9e-4, 768)])
    assert found.says == UNPROVEN
    assert "dicono sì errore; dicono no nomi dei kernel" in found.reason


# ncu.

KERNELS = [
    ("void at::native::spin_kernel(long)", {"hmma": 0, "gmma": 0}, 0.0),
    (NVJET, {"hmma": 0, "gmma": 1_234_567}, 71.3),
    ("void cublasLt::splitKreduce_kernel<32, 16>(int)", {"hmma": 3, "gmma": 0}, 0.5),
    ("void at::native::spin_kernel(long)", {"hmma": 0, "gmma": 0}, 0.0),
    (FFMA, {"hmma": 0, "gmma": 0}, 0.0),
]
"""Due operazioni come ncu le vede: un segnale, i kernel; un segnale, un kernel."""

EXPECTED = [
    {**hopper(gmma=1234567.0, hmma=3.0), CYCLES: 71.3},
    {**hopper(), CYCLES: 0.0},
]


OTHERS = {"dmma": 0.0, "hmma": 3.0, "imma": 0.0}
"""Ciò che della prima operazione resta, se di un kernel mancano le GMMA, e con loro il totale."""


def written(rows):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


def metrics(counts, cycles):
    whole = {name: f"{it:,.0f}" for name, it in hopper(**counts).items()}
    return whole | {CYCLES: f"{cycles}"}


def wide():
    """Il CSV di `--page raw`: una colonna per contatore, le unità sotto l'intestazione."""
    names = list(metrics({}, 0))
    head = ["ID", "Process ID", "Kernel Name", "Block Size", *names]
    units = ["", "", "", "", *["inst"] * (len(names) - 1), "%"]
    rows = [
        [place, 41, kernel, "(128, 1, 1)", *metrics(counts, cycles).values()]
        for place, (kernel, counts, cycles) in enumerate(KERNELS)
    ]
    return written([head, units, *rows])


def long():
    """Il CSV dell'altra forma: una riga per contatore."""
    head = ["ID", "Process ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value"]
    rows = [
        [place, 41, kernel, name, "inst", value]
        for place, (kernel, counts, cycles) in enumerate(KERNELS)
        for name, value in metrics(counts, cycles).items()
    ]
    return written([head, *rows])


NOISE = '==PROF== Connected to process 41\n==PROF== Profiling "k" - 0: 0%....100% - 2 passes\n'


@pytest.mark.parametrize("table", [wide, long])
def test_both_forms_of_the_csv_give_the_counters_of_each_operation(table):
    assert counters.split(counters.parse(NOISE + table())) == EXPECTED


@pytest.mark.parametrize("unknown", ["n/a", "nan", "inf", ""])
@pytest.mark.parametrize("table", [wide, long])
def test_a_counter_unavailable_in_one_kernel_is_unknown_for_the_whole_operation(table, unknown):
    """L'altro kernel ne ha zero, e zero non è la somma."""
    text = table().replace('"1,234,567"', f'"{unknown}"')
    [first, _] = counters.split(counters.parse(text))
    assert first == {f"{TENSOR_PIPE}_op_{it}.sum": n for it, n in OTHERS.items()} | {CYCLES: 71.3}
    assert from_counters(first, products=10**9).says == UNPROVEN


def test_a_counter_is_of_an_operation_if_every_kernel_has_it():
    kernels = [{"sm__a": 1.0, "sm__b": 2.0}, {"sm__a": 3.0}]
    for order in (kernels, kernels[::-1]):
        assert counters.total(order) == {"sm__a": 4.0}


def test_kernels_before_the_first_signal_belong_to_nobody():
    assert counters.split([("altro", {"sm__x": 1.0})]) == []


@pytest.fixture
def fake_ncu(monkeypatch, tmp_path):
    """Un `ncu` finto, che scrive ciò che gli si dice; dà la riga di comando che ha ricevuto."""

    def install(answer, *, sleep=0):
        program, seen = tmp_path / "ncu", tmp_path / "argv.json"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys, time\n"
            f"open({str(seen)!r}, 'w').write(json.dumps(sys.argv[1:]))\n"
            f"time.sleep({sleep})\nsys.stdout.write({answer!r})\n",
            encoding="utf-8",
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(shutil, "which", lambda name, path: str(program))
        return seen

    return install


def test_counters_come_back_under_the_names_of_the_operations(fake_ncu):
    seen = fake_ncu(NOISE + wide())
    assert counters.count(["BF16 1 2 3", "FP32 1 2 3"]) == {
        "BF16 1 2 3": EXPECTED[0],
        "FP32 1 2 3": EXPECTED[1],
    }
    command = json.loads(seen.read_text(encoding="utf-8"))
    assert command[command.index("--clock-control") + 1] == "none"
    assert json.loads(command[-1]) == ["BF16 1 2 3", "FP32 1 2 3"]
    assert command[-4:-1] == [sys.executable, "-m", "benchmarks.counters"]


def test_operations_ncu_had_no_time_for_are_missing(fake_ncu):
    fake_ncu(wide())
    assert list(counters.count(["a", "b", "c"])) == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("==ERROR== ERR_NVGPUCTRPERM - The user …\n", r"non ha il permesso .*ERR_NVGPUCTRPERM"),
        ("==ERROR== Failed to find metric x\n", "0 operazioni su 1: Failed to find metric x"),
        ("", "ncu ha contato 0 operazioni su 1$"),
        (wide(), "ncu ha contato 2 operazioni su 1$"),  # chi ha contato che cosa non si sa
    ],
)
def test_a_failing_ncu_says_why(fake_ncu, answer, reason):
    fake_ncu(answer)
    with pytest.raises(counters.NoCountersError, match=reason):
        counters.count(["BF16 1 2 3"])


def test_a_late_ncu_is_stopped(fake_ncu, monkeypatch):
    fake_ncu("", sleep=60)
    monkeypatch.setattr(counters, "LIMIT", 0.2)
    with pytest.raises(counters.NoCountersError, match="non ha finito"):
        counters.count(["BF16 1 2 3"])


def test_what_a_late_ncu_has_opened_is_stopped_too(tmp_path):
    """Chi resta aperto terrebbe aperta anche la risposta: si aspetterebbe lui."""
    child = tmp_path / "finito"
    with pytest.raises(counters.NoCountersError, match="non ha finito"):
        counters.ask(("sh", "-c", '(sleep 1; touch "$0") & wait', str(child)), 0.3)
    assert not child.exists()


@pytest.mark.parametrize(("patience", "expected"), [(-1.0, []), (60.0, ["a", "b"])])
def test_operations_stop_beginning_when_the_time_is_over(monkeypatch, patience, expected):
    played = []
    monkeypatch.setattr(bench, "run_of", lambda case: case)
    monkeypatch.setattr(counters, "play", played.append)
    monkeypatch.setattr(counters, "PATIENCE", patience)
    counters.main('["a", "b"]')
    assert played == expected


def test_without_ncu_it_is_said(monkeypatch):
    monkeypatch.setattr(counters, "CUDA_FOLDER", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(counters.NoCountersError, match="non è installato"):
        counters.count(["BF16 1 2 3"])


# Il benchmark.

SIZE = (10, 96, 32)
"""Righe, profondità, colonne."""


@torch.no_grad()
@pytest.mark.parametrize(
    ("form", "error"), [("FP32", 2e-7), ("BF16", 2.8e-3), ("FP16", 3.5e-4), ("FP8", 3.8e-2)]
)
def test_each_format_pays_its_own_error(form, error):
    x, w = bench.operands(*SIZE)
    kept = bench.stored(x, form), bench.stored(w, form)
    if form == "FP8":
        y = (kept[0].values() @ kept[1].values().T).bfloat16()
    else:
        y = bench.product(form, *kept)()
    found = bench.errors(y, x, w, kept)
    assert error / 2 < found["error"] < error * 2
    assert found["product_error"] <= found["error"]
    if form == "FP8":
        assert found["product_error"] < 3e-3  # qui resta solo l'uscita, in BF16


def test_fp8_scale_uses_the_whole_range():
    x, _ = bench.operands(*SIZE)
    kept = bench.stored(x, "FP8")
    assert kept.numbers.float().abs().max() == 448
    assert kept.values().abs().max() == pytest.approx(x.abs().max().item())


def test_work_counts_the_product_and_the_least_traffic():
    m, k, n = SIZE
    found = bench.work(m, k, n)
    assert (found.flops, found.numbers) == (2 * m * k * n, m * k + k * n + m * n)
    assert found.bytes == m * k + k * n + 2 * m * n
    assert bench.work(10, 97, 32).bytes == 2 * (10 * 97 + 97 * 32 + 10 * 32)
    assert found.label == "10×96×32"


@pytest.fixture
def on_gpu(monkeypatch):
    """Il benchmark come su una H100, con un profiler e un ncu che rispondono a comando."""
    monkeypatch.setattr(bench, "DEVICE", "cuda")
    monkeypatch.setattr(bench, "kernel_names", lambda _: ["Memset (Device)", NVJET])
    monkeypatch.setattr(bench, "measurable", lambda: ["FP32", "TF32", "BF16", "FP16", "FP8"])
    return Ceilings({}, {}, 3e12, H100, {"sm_max_mhz": 1980.0})


@torch.no_grad()
def prove_bf16(ceilings):
    x, w = torch.randn(10, 96), torch.randn(32, 96)
    return bench.prove("BF16", SIZE, x, w, 5e14, ceilings)


def test_published_proofs_carry_every_evidence(on_gpu, monkeypatch):
    read_counters = {"BF16 10 96 32": hopper(gmma=1000.0)}
    monkeypatch.setattr(bench, "counted", lambda: read_counters)
    found = prove_bf16(on_gpu)
    assert found["verdict"] == YES
    assert found["kernels"] == f"Memset (Device)\n{NVJET}"
    assert {name: it["says"] for name, it in found["evidence"].items()} == {
        tensor_cores.NAMES: YES,
        tensor_cores.RATE: YES,
        tensor_cores.COUNTERS: YES,
        tensor_cores.ERROR: UNPROVEN,
        tensor_cores.MACHINE_CODE: UNPROVEN,
    }
    assert found["evidence"][tensor_cores.RATE]["reason"].startswith("500,0 TFLOP/s")
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("counts", "reason"), [("ncu non è installato", "non è installato"), ({}, "non ha avuto")]
)
def test_published_proofs_say_why_counters_are_missing(on_gpu, monkeypatch, counts, reason):
    monkeypatch.setattr(bench, "counted", lambda: counts)
    assert reason in prove_bf16(on_gpu)["evidence"][tensor_cores.COUNTERS]["reason"]


def test_every_operation_has_a_name_that_gives_it_back(on_gpu, monkeypatch):
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    named = bench.cases()
    assert len(named) == len(set(named))
    ours = {bench.ATTENTION, bench.SDPA}
    sizes = {tuple(map(int, case.split()[-3:])) for case in named if case not in ours}
    assert sizes == {*bench.SIZES, *bench.ALIGNMENTS, bench.OURS}
    with torch.no_grad():
        assert bench.run_of("BF16 3 16 32")().shape == (3, 32)
    assert not any(case.startswith("FP8") and " 767 " in case for case in named)


def test_a_refused_format_is_left_out_and_said():
    def refuse():
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nil resto")

    with pytest.warns(UserWarning, match="^Non misurato FP8: CUBLAS_STATUS_NOT_SUPPORTED$"):
        assert not bench.accepted("FP8", refuse)
    assert bench.accepted("FP8", list)


def test_a_failing_operation_keeps_the_place_of_the_others(monkeypatch):
    played = []
    for name in ("synchronize", "_sleep"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: played.append(name))
    for name in ("start", "stop"):
        monkeypatch.setattr(torch.cuda.profiler, name, lambda name=name: played.append(name))

    def fail():
        raise RuntimeError

    counters.play(lambda: played.append("run"))
    assert played == ["run", "synchronize", "start", "_sleep", "run", "synchronize", "stop"]
    played.clear()
    counters.play(fail)
    assert [name for name in played if name != "synchronize"] == ["start", "_sleep", "stop"]


def test_only_what_runs_on_the_gpu_is_a_kernel_and_in_order(monkeypatch):
    def event(name, start, device):
        span = type("Range", (), {"start": start})
        return type("Event", (), {"name": name, "time_range": span, "device_type": device})

    gpu, cpu = bench.DeviceType.CUDA, bench.DeviceType.CPU
    seen = [event("secondo", 2, gpu), event("aten::mm", 0, cpu), event("primo", 1, gpu)]

    class Profile(contextlib.nullcontext):
        events = staticmethod(lambda: seen)

        def __enter__(self):
            return self

    monkeypatch.setattr(bench, "DEVICE", "cuda")
    monkeypatch.setattr(bench, "profile", lambda activities: Profile())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert bench.kernel_names(list) == ["primo", "secondo"]
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    assert bench.kernel_names(list) == []


@torch.no_grad()
def test_our_kernel_makes_the_same_product():
    pytest.importorskip("triton")
    x, w = bench.operands(10, 70, 33)
    for run in bench.our_runs(x, w).values():
        torch.testing.assert_close(run(), x @ w.T)


@torch.no_grad()
@pytest.mark.parametrize("name", [bench.ATTENTION, bench.SDPA])
def test_our_attention_pays_the_error_of_bf16(name):
    pytest.importorskip("triton")
    heads = torch.randn(3, 1, 2, 37, 64).unbind()
    found = bench.attention_errors(bench.attention_runs(heads)[name](), heads)
    assert 1e-3 < found["product_error"] < found["error"] < 1e-2


def test_attention_work_counts_two_products():
    found = bench.attention_work(2, 3, 5, 7)
    assert (found.flops, found.bytes) == (2 * 2 * (2 * 3 * 5 * 5 * 7), 2 * 4 * (2 * 3 * 5 * 7))


class Kernel:
    """Un kernel che, lanciato, torna il codice macchina, come fa Triton."""

    def __init__(self):
        self.grids = []

    def __getitem__(self, grid):
        self.grids.append(grid)
        return lambda *_, **__: type("Compiled", (), {"asm": {"cubin": b"codice"}})


@torch.no_grad()
@pytest.mark.parametrize("module", ["gpu_notes.rosetta", bench.MODULE])
def test_listing_of_our_kernel_is_the_one_that_ran(monkeypatch, module):
    place, kernel = pytest.importorskip(module), Kernel()
    monkeypatch.setattr(bench, "disassemble", lambda cubin: cubin.decode())
    monkeypatch.setattr(place, "launch", lambda kernel, grid: kernel[grid](1, number=2))
    assert bench.listing_of(module, lambda: place.launch(kernel, (3, 5))) == "codice"
    assert kernel.grids == [(3, 5)]


def test_without_a_disassembler_the_machine_code_is_silent(monkeypatch):
    def missing(*_):
        raise MissingToolError("manca nvdisasm")

    monkeypatch.setattr(bench, "listing_of", missing)
    found = bench.code_of("gpu_notes.rosetta", list)
    assert (found.says, found.reason) == (UNPROVEN, "listing non letto: manca nvdisasm")


# La pagina.


@pytest.fixture
def session(on_gpu, monkeypatch):
    """Una sessione scritta a mano, con una gara su GPU."""
    monkeypatch.setattr(bench, "counted", lambda: "ncu <non> risponde")
    score = {"median": 9.1e-6, "gflops": 5e5, "gemm_fraction": 0.912}
    info = {
        "device": "cuda",
        "label": "25000×768×3072",
        "shape": {"m": 25_000, "k": 768, "n": 3072},
        "contestants": {"BF16": score},
        "proofs": {"BF16": prove_bf16(on_gpu)},
    }
    machine = {
        **{"cpu": "Intel(R) Xeon(R)", "cores": 16, "threads": 16, "gpu": "NVIDIA H100"},
        **{"driver": "580.1", "system": "Linux x86_64", "python": "3.12.3"},
        "packages": {"torch": "2.11.0", "ctranslate2": None},
    }
    return {
        "machine_info": machine,
        "commit_info": {"id": "abc1234", "modified": False},
        "datetime": "2026-06-12T10:00:00+00:00",
        "benchmarks": [{"group": "tensor_cores", "extra_info": info, "stats": {"rounds": 7}}],
    }


def test_page_shows_speed_error_and_verdict_in_one_row(session):
    html = proofs.render("tensor_cores", [session]).replace("\u00a0", " ")
    row = html[html.index('<th scope="row">BF16</th>') :].partition("</tr>")[0]
    assert "<td>9,10 µs</td><td>500</td><td>91 %</td>" in row
    assert row.endswith("<td><strong>sì</strong></td>")
    named = session["machine_info"]["gpu"]
    assert f"{named}: 25\u202f000 righe, profondità 768, 3072 colonne" in html
    assert "NVIDIA H100 (driver 580.1)" in html


def test_page_lists_every_evidence_under_its_format(session):
    html = proofs.render("tensor_cores", [session])
    details = html[html.index("<details>") : html.index("</details>")]
    assert '<th scope="rowgroup" rowspan="6">BF16</th>' in details
    for proof in session["benchmarks"][0]["extra_info"]["proofs"]["BF16"]["evidence"]:
        assert f"<td>{proof}</td>" in details
    assert "ncu &lt;non&gt; risponde" in details
    assert "nvjet_<wbr>sm90_<wbr>tst" in details


def test_page_says_that_the_gpu_was_not_measured(session):
    assert proofs.render("tensor_cores", []) == proofs.ABSENT
    on_cpu = json.loads(json.dumps(session))
    on_cpu["benchmarks"][0]["extra_info"]["proofs"] = {"FP32": {"error": 1e-7}}
    assert proofs.render("tensor_cores", [on_cpu]) == proofs.ABSENT
    assert proofs.render("altro", [session]) == proofs.ABSENT


def test_an_unknown_group_stops_the_build():
    with pytest.raises(SuperFencesException, match="«tensor» non esiste"):
        proofs.prove("tensor")
    assert proofs.prove("tensor_cores")


def test_the_page_names_every_false_friend():
    page = (ROOT / "docs" / "misure_tensor_core.md").read_text(encoding="utf-8")
    for word in ("ffma", "nvjet", "HFMA2.MMA", "3×TF32", "ERR_NVGPUCTRPERM"):
        assert word in page


def test_the_page_says_in_how_many_products_fp8_is_missing():
    missing = [size for size in bench.ALIGNMENTS if not bench.fits_fp8(*size[1:])]
    assert (len(missing), len(bench.ALIGNMENTS)) == (3, 5)
    page = (ROOT / "docs" / "misure_tensor_core.md").read_text(encoding="utf-8")
    assert "in tre prodotti su cinque, il FP8 manca" in page


@pytest.mark.parametrize(("form", "roof"), [("FP32", "gara"), ("BF16", "sessione")])
def test_fractions_are_of_the_product_the_page_says(session, form, roof):
    timing, side = contest.Timing(1e-3, 0.0), contest.gemm_size(torch.float32)
    rates = {"gara": 2 * side**3 / 1e-3, "sessione": 7e12}
    ceilings = Ceilings({"FP32": 7e12, "BF16": 7e12}, {}, 3e12, None, {})
    lap = (bench.work(*SIZE), torch.float32, form, {form: timing}, {form: 0}, timing, ceilings)
    score = contest.verdict(*lap, formats={form: form})["contestants"][form]
    assert score["gemm_fraction"] == pytest.approx(1e9 * score["gflops"] / rates[roof])
    page = (ROOT / "docs" / "misure_tensor_core.md").read_text(encoding="utf-8")
    for text in (page, proofs.explain(session)):
        assert "in FP32 quello cronometrato negli stessi giri della gara, negli altri" in text


def test_pencil_case_is_above_the_ceiling():
    flops = 2 * 25_000 * 768 * 3072
    ceiling = cuda_core_ceiling(H100, "TF32")
    assert flops == pytest.approx(1.18e11, rel=1e-2)
    assert flops / 0.5e-3 == pytest.approx(236e12, rel=1e-2)
    assert ceiling == pytest.approx(66.9e12, rel=1e-3)
    assert flops / ceiling == pytest.approx(1.8e-3, rel=0.05)
    assert from_rate(flops / 0.5e-3, ceiling).says == YES
    assert from_rate(flops / 1.8e-3, ceiling).says == UNPROVEN


# Ciò che la pagina dice della H200.


def judged_in(measured):
    """Il verdetto e i contatori di ogni formato."""
    return {
        form: (it["verdict"], it["evidence"]["contatori"]["reason"])
        for form, it in measured["proofs"].items()
    }


def test_verdicts_on_an_h200(h200):
    groups = ("tensor_cores", "tensor_cores_alignment")
    found = [it for (group, *_), it in h200.items() if group in groups]
    assert len(found) == 10
    for measured in found:
        for form, (given, _) in judged_in(measured).items():
            assert given == (NO if form == "FP32" else YES)
    measured = h200["tensor_cores", "25000×768×3072", "float32"]
    times = {form: it["median"] for form, it in measured["contestants"].items()}
    assert times["FP32"] / times["BF16"] == pytest.approx(14, abs=0.1)
    assert times["FP32"] / times["TF32"] == pytest.approx(7.4, abs=0.1)
    errors = {form: it["error"] for form, it in measured["proofs"].items()}
    assert errors["BF16"] == pytest.approx(2.9e-3, rel=0.02)
    assert errors["TF32"] == pytest.approx(2.9e-4, rel=0.02)
    assert errors["FP32"] == pytest.approx(5e-7, rel=0.02)
    few = h200["tensor_cores", "10×768×3072", "float32"]
    assert {it["evidence"]["ritmo"]["says"] for it in few["proofs"].values()} == {UNPROVEN}
    times = {form: it["median"] for form, it in few["contestants"].items()}
    assert times["FP32"] / times["BF16"] == pytest.approx(1.9, abs=0.05)


def test_the_pencil_case_on_an_h200_and_why_fp16_errs_more_than_tf32(h200):
    """Dieci bit tutt'e due, ma FP16 arrotonda anche l'uscita: gli errori si sommano in quadrato."""
    contest = h200["tensor_cores", "25000×768×3072", "float32"]
    tf32 = contest["contestants"]["TF32"]
    assert tf32["median"] == pytest.approx(0.315e-3, abs=5e-7)
    assert tf32["gflops"] == pytest.approx(374e3, rel=2e-3)
    rounded, half = contest["proofs"]["TF32"], contest["proofs"]["FP16"]
    assert rounded["error"] == pytest.approx(2.9e-4, abs=5e-6)
    assert half["product_error"] == pytest.approx(2.1e-4, abs=5e-6)
    assert half["error"] == pytest.approx(3.6e-4, abs=5e-6)
    assert half["error"] == pytest.approx(hypot(rounded["error"], half["product_error"]), rel=0.01)


def test_one_number_less_costs_much_but_stays_on_tensor_cores(h200):
    def slower(form, whole, less):
        runs = [h200["tensor_cores_alignment", it, "float32"] for it in (less, whole)]
        times = [it["contestants"][form]["median"] for it in runs]
        return times[0] / times[1]

    for whole, less, times in (
        ("8192×768×3072", "8192×767×3072", 5.6),
        ("8192×768×3072", "8192×768×3071", 7.2),
        ("4096×768×50304", "4096×768×50257", 7.7),
    ):
        assert slower("BF16", whole, less) == pytest.approx(times, abs=0.05)
        assert slower("FP32", whole, less) == pytest.approx(1, abs=0.01)
        proof = h200["tensor_cores_alignment", less, "float32"]["proofs"]["BF16"]
        assert "cutlass_75_tensorop_bf16" in proof["kernels"]
        assert "align1" in proof["kernels"]
        counted = proof["evidence"]["contatori"]["reason"]
        assert ("HMMA" in counted, "GMMA" in counted) == (True, False)
        assert (
            "nvjet" in h200["tensor_cores_alignment", whole, "float32"]["proofs"]["BF16"]["kernels"]
        )


def test_counted_gmma_are_those_of_the_tiles(h200):
    """Piastrelle 64 × 8, 16 in profondità, quattro warp; ncu le conta anche fra le HMMA."""
    proof = h200["tensor_cores", "10×768×3072", "float32"]["proofs"]["BF16"]
    assert "64x8_64x16" in proof["kernels"]
    count = 4 * (3072 // 64) * -(-10 // 8) * (768 // 16)
    counted = proof["evidence"]["contatori"]["reason"]
    assert counted.startswith(f"{count} GMMA, {count} HMMA")


def test_counted_hmma_are_exactly_the_product(h200):
    measured = h200["tensor_cores_ours", "1024×768×3072", "float32"]
    found = judged_in(measured)
    assert found["Triton tf32"][1].startswith(f"{1024 * 768 * 3072 // (16 * 8 * 8)} HMMA")
    assert found["Triton ieee"][1].startswith("0 istruzioni")
    assert "1024 FFMA" in measured["proofs"]["Triton ieee"]["evidence"]["codice macchina"]["reason"]


def test_truncated_operands_err_as_much_as_our_kernel(h200):
    """Le ultime 13 cifre azzerate, in una somma di 768 prodotti: l'errore misurato."""
    torch.manual_seed(1)
    x, w = torch.randn(64, 768), torch.randn(96, 768)
    exact = x.double() @ w.double().T
    cut = [(it.view(torch.int32) & ~0x1FFF).view(torch.float32).double() for it in (x, w)]
    error = (cut[0] @ cut[1].T - exact).norm() / exact.norm()
    ours = h200["tensor_cores_ours", "1024×768×3072", "float32"]["proofs"]["Triton tf32"]["error"]
    assert error.item() == pytest.approx(ours, rel=0.05)
    library = h200["tensor_cores", "1024×768×3072", "float32"]["proofs"]["TF32"]["error"]
    assert ours / library == pytest.approx(2.6, abs=0.05)
