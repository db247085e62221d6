"""The named tuples that calls give, and what types say of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

#: An array of any library: what goes in comes out.
Array = TypeVar("Array", bound=Any)
Mode = Literal["raise", "clip", "wrap", "fill", "defer"]
WriteMode = Literal["raise", "defer"]
Reduce = Literal["sum", "prod", "mean", "amax", "amin"]

if TYPE_CHECKING:
    # A named tuple can be generic from Python 3.11 on, and for type checkers in every version.
    from typing import Generic

    class TokenMask(NamedTuple, Generic[Array]):
        ids_keep: Array
        ids_restore: Array
        mask: Array

    class MaskedTokens(NamedTuple, Generic[Array]):
        x_masked: Array
        mask: Array
        ids_restore: Array

    class PaddedTokens(NamedTuple, Generic[Array]):
        x_masked: Array
        mask: Array
        ids_restore: Array
        valid: Array

    class PackedTokens(NamedTuple, Generic[Array]):
        x_masked: Array
        mask: Array
        ids_restore: Array
        cu_seqlens: Array
        max_seqlen: int

    class PackedImages(NamedTuple, Generic[Array]):
        x_masked: Array
        mask: Array
        ids_restore: Array
        cu_seqlens: Array
        max_seqlen: int
        ids_keep: Array
        cu_tokens: Array
        grids: tuple[tuple[int, ...], ...]

    class BlockIds(NamedTuple, Generic[Array]):
        encoder: Array
        predictor: Array
        encoder_counts: Array
        predictor_counts: Array

    class PackedBlockIds(NamedTuple, Generic[Array]):
        encoder: Array
        predictor: Array
        encoder_cu_seqlens: Array
        predictor_cu_seqlens: Array

else:

    class TokenMask(NamedTuple):
        """Which tokens stay.

        Attributes
        ----------
        ids_keep : array of int64, shape [N, K]
            The kept tokens of each sample, lowest score first; -1 behind them in a sample
            that keeps fewer than K.
        ids_restore : array of int64, shape [N, L]
            The rank of each token: where to find it in the ranked order.
        mask : array of float32, shape [N, L]
            0 keep, 1 remove.
        """

        ids_keep: Any
        ids_restore: Any
        mask: Any

    class MaskedTokens(NamedTuple):
        """What :func:`random_masking` gives, in the order of the paper's code.

        Attributes
        ----------
        x_masked : array, shape [N, K, ...]
            The visible tokens, lowest score first.
        mask : array of float32, shape [N, L]
            0 keep, 1 remove.
        ids_restore : array of int64, shape [N, L]
            The rank of each token.
        """

        x_masked: Any
        mask: Any
        ids_restore: Any

    class PaddedTokens(NamedTuple):
        """What :func:`random_masking` gives where each sample keeps a number of its own.

        Attributes
        ----------
        x_masked : array, shape [N, K, ...]
            The visible tokens, lowest score first, then zeros; K is the largest number kept.
        mask : array of float32, shape [N, L]
            0 keep, 1 remove.
        ids_restore : array of int64, shape [N, L]
            The rank of each token.
        valid : array of bool, shape [N, K]
            Which of ``x_masked`` are tokens: an attention mask for the encoder.
        """

        x_masked: Any
        mask: Any
        ids_restore: Any
        valid: Any

    class PackedTokens(NamedTuple):
        """What :func:`random_masking` gives with ``packed=True``.

        Attributes
        ----------
        x_masked : array, shape [T, ...]
            The visible tokens of all samples, one after the other; within a sample lowest score
            first. T is their number, and nothing stands between the samples.
        mask : array of float32, shape [N, L]
            0 keep, 1 remove.
        ids_restore : array of int64, shape [N, L]
            The rank of each token within its sample.
        cu_seqlens : array of int32, shape [N + 1]
            Sample n has the rows ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``, as
            ``torch.nn.attention.varlen`` and flash-attention take it.
        max_seqlen : int
            The largest number of tokens that a sample keeps.
        """

        x_masked: Any
        mask: Any
        ids_restore: Any
        cu_seqlens: Any
        max_seqlen: int

    class PackedImages(NamedTuple):
        """What :func:`masked_patchify` gives for images of different sizes.

        Attributes
        ----------
        x_masked : array, shape [T, prod(patch_size) * C]
            The visible patches of all images, one after the other; of an image lowest score first.
        mask : array of float32, shape [S]
            0 keep, 1 remove, for the patches of all images, one image after the other.
        ids_restore : array of int64, shape [S]
            The rank of each patch within its image.
        cu_seqlens : array of int32, shape [N + 1]
            Image n has the rows ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]`` of ``x_masked``.
        max_seqlen : int
            The largest number of patches that an image keeps.
        ids_keep : array of int64, shape [T]
            Which patch of its image each row is, for its position: ``divmod(id, grid[1])`` are the
            row and the column.
        cu_tokens : array of int32, shape [N + 1]
            The same of ``mask`` and ``ids_restore``.
        grids : tuple of tuple of int
            The number of patches along each side of each image.
        """

        x_masked: Any
        mask: Any
        ids_restore: Any
        cu_seqlens: Any
        max_seqlen: int
        ids_keep: Any
        cu_tokens: Any
        grids: tuple[tuple[int, ...], ...]

    class BlockIds(NamedTuple):
        """What :func:`multiblock_ids` gives: ids of tokens in ascending order, -1 behind them.

        Attributes
        ----------
        encoder : array of int64, shape [N, K]
            The tokens of each context; K is a number that no context exceeds, whatever the ids.
        predictor : array of int64, shape [N, M, P]
            The tokens of each target; P is a number that no target exceeds.
        encoder_counts : array of int64, shape [N]
            How many tokens each context has.
        predictor_counts : array of int64, shape [N, M]
            How many tokens each target has.
        """

        encoder: Any
        predictor: Any
        encoder_counts: Any
        predictor_counts: Any

    class PackedBlockIds(NamedTuple):
        """What :func:`multiblock_ids` gives with ``packed=True``.

        Attributes
        ----------
        encoder : array of int64, shape [T]
            The tokens of all contexts, one context after the other.
        predictor : array of int64, shape [U]
            The tokens of all targets of all samples, one after the other.
        encoder_cu_seqlens : array of int32, shape [N + 1]
            Where each context begins, and the last one ends.
        predictor_cu_seqlens : array of int32, shape [N * M + 1]
            Where each target begins, and the last one ends; target m of sample n is the
            ``n * M + m``-th.
        """

        encoder: Any
        predictor: Any
        encoder_cu_seqlens: Any
        predictor_cu_seqlens: Any
