"""The named tuples that calls give, and what types say of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

#: An array of any library: what goes in comes out.
Array = TypeVar("Array", bound=Any)
Mode = Literal["raise", "clip", "wrap", "fill", "defer"]
WriteMode = Literal["raise", "defer"]

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
