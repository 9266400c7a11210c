"""What flashinfer-python 0.6 and 0.7 document of the calls that are used, in plain torch.

Names, order and defaults of arguments are the library's, which
``test_flash_libraries.py`` compares where it is installed; what it refuses is refused here.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tests.kernels.paged_sequences import attend, gather

HEAD_DIMS = (64, 128, 256)


class Wrapper:
    """What both wrappers refuse and compute."""

    planned: ClassVar[list[object]] = []
    """Each wrapper whenever it is planned, for tests that count."""

    def _reset(self, workspace: Tensor, kv_layout: str, use_cuda_graph: bool) -> None:
        assert workspace.dtype == torch.uint8
        assert workspace.data_ptr() % 16 == 0
        assert workspace.numel() >= 128 * 1024 * 1024
        assert not workspace.any(), "must be zero for its first use"
        assert kv_layout == "NHD"
        assert not use_cuda_graph, "would need buffers of fixed size"

    def _plan(self, starts, indptr, indices, last_page_len, shape, scoring) -> None:
        num_qo_heads, num_kv_heads, head_dim, page_size = shape
        batch = len(indptr) - 1
        for tensor, count in (
            (starts, batch + 1),
            (indptr, batch + 1),
            (indices, int(indptr[-1])),
            (last_page_len, batch),
        ):
            assert tensor.dtype == torch.int32
            assert tensor.shape == (count,)
            assert tensor.is_contiguous()
        for offsets in (starts, indptr):
            assert offsets[0] == 0
            assert (offsets.diff() >= 0).all()
        assert ((last_page_len >= 1) & (last_page_len <= page_size)).all()
        assert num_qo_heads % num_kv_heads == 0
        assert head_dim in HEAD_DIMS
        assert scoring["q_data_type"] in {torch.float16, torch.bfloat16}
        assert scoring["kv_data_type"] in {None, scoring["q_data_type"]}
        self._offsets = [tensor.tolist() for tensor in (starts, indptr, indices, last_page_len)]
        self._shape, self._scoring = shape, scoring
        self.planned.append(self)

    def _run(self, q: Tensor, paged_kv_cache: tuple[Tensor, Tensor], causal: bool) -> Tensor:
        starts, indptr, indices, last = self._offsets
        heads, kv_heads, dim, page_size = self._shape
        keys, values = paged_kv_cache
        dtype = self._scoring["q_data_type"]
        assert q.shape == (starts[-1], heads, dim)
        assert q.stride(-1) == 1
        assert q.dtype == keys.dtype == values.dtype == dtype
        assert keys.shape == values.shape == (len(keys), page_size, kv_heads, dim)
        assert keys.is_contiguous()
        assert values.is_contiguous()
        scale, softcap = self._scoring["sm_scale"], self._scoring["logits_soft_cap"]
        out = torch.full_like(q, float("nan"), memory_format=torch.contiguous_format)
        for sequence, last_length in enumerate(last):
            pages = indices[indptr[sequence] : indptr[sequence + 1]]
            length = (len(pages) - 1) * page_size + last_length
            rows = slice(starts[sequence], starts[sequence + 1])
            out[rows] = attend(
                q[rows],
                gather(keys, pages, length),
                gather(values, pages, length),
                dim**-0.5 if scale is None else scale,
                causal,
                self._scoring["window_left"],
                -1,
                softcap or 0.0,
            )
        return out


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    def __init__(
        self,
        float_workspace_buffer,
        kv_layout="NHD",
        use_cuda_graph=False,
        use_tensor_cores=False,
    ) -> None:
        self._reset(float_workspace_buffer, kv_layout, use_cuda_graph)
        self._use_tensor_cores = use_tensor_cores

    def plan(
        self,
        indptr,
        indices,
        last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim,
        page_size,
        *,
        window_left=-1,
        logits_soft_cap=None,
        q_data_type="float16",
        kv_data_type=None,
        sm_scale=None,
    ) -> None:
        group = num_qo_heads // num_kv_heads
        assert self._use_tensor_cores or group in {1, 2, 3, 4, 8}
        starts = torch.arange(len(indptr), dtype=torch.int32)
        shape = (num_qo_heads, num_kv_heads, head_dim, page_size)
        scoring = {
            "window_left": window_left,
            "logits_soft_cap": logits_soft_cap,
            "q_data_type": q_data_type,
            "kv_data_type": kv_data_type,
            "sm_scale": sm_scale,
        }
        self._plan(starts, indptr, indices, last_page_len, shape, scoring)

    def run(self, q, paged_kv_cache) -> Tensor:
        return self._run(q, paged_kv_cache, causal=False)


class BatchPrefillWithPagedKVCacheWrapper(Wrapper):
    def __init__(self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False) -> None:
        self._reset(float_workspace_buffer, kv_layout, use_cuda_graph)

    def plan(
        self,
        qo_indptr,
        paged_kv_indptr,
        paged_kv_indices,
        paged_kv_last_page_len,
        num_qo_heads,
        num_kv_heads,
        head_dim_qk,
        page_size,
        *,
        causal=False,
        sm_scale=None,
        window_left=-1,
        logits_soft_cap=None,
        q_data_type="float16",
        kv_data_type=None,
    ) -> None:
        self._causal = causal
        shape = (num_qo_heads, num_kv_heads, head_dim_qk, page_size)
        places = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
        scoring = {
            "window_left": window_left,
            "logits_soft_cap": logits_soft_cap,
            "q_data_type": q_data_type,
            "kv_data_type": kv_data_type,
            "sm_scale": sm_scale,
        }
        self._plan(*places, shape, scoring)

    def run(self, q, paged_kv_cache) -> Tensor:
        return self._run(q, paged_kv_cache, self._causal)
