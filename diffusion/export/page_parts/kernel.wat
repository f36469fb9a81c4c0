;; The arithmetic of the page that draws: four loops over 32-bit floats, four at a time. All addresses are bytes.
;; Images lie pixel by pixel, with the channels of a pixel side by side.
;; Every operation used here is fixed to the last bit by IEEE 754, so every machine gets the same numbers.
(module
  (memory (export "memory") 1)

  ;; out[p, c] = bias[c] + sum over r, k of x[offsets[p] + r*stride + k] * weights[c, r, k]
  ;;
  ;; A convolution: the window of pixel p is `runs` rows, `stride` bytes apart, of `length` floats side by side. With
  ;; one run it is a matrix product. Four pixels and eight channels at a time: eight sums stay in registers.
  ;;   offsets    int32 for each pixel, in bytes from $x; $pixels is a multiple of four
  ;;   weights    (blocks, runs*length, 8) and bias (blocks, 8): eight channels to a block
  ;;   out        rows of $width floats, at least eight; the last block ends where the row ends, and so may begin
  ;;              within the one before
  (func (export "convolve")
    (param $x i32) (param $offsets i32) (param $pixels i32)
    (param $runs i32) (param $length i32) (param $stride i32)
    (param $weights i32) (param $bias i32) (param $blocks i32)
    (param $out i32) (param $width i32)
    (local $block i32) (local $column i32) (local $pixel i32) (local $run i32) (local $end i32)
    (local $w i32) (local $to i32) (local $row i32)
    (local $x0 i32) (local $x1 i32) (local $x2 i32) (local $x3 i32)
    (local $a v128) (local $b v128) (local $v v128)
    (local $a0 v128) (local $a1 v128) (local $a2 v128) (local $a3 v128)
    (local $b0 v128) (local $b1 v128) (local $b2 v128) (local $b3 v128)
    (local.set $row (i32.shl (local.get $width) (i32.const 2)))
    (local.set $length (i32.shl (local.get $length) (i32.const 2)))
    (loop $blocks_loop
      (local.set $column (i32.shl (local.get $block) (i32.const 3)))
      (if (i32.gt_s (local.get $column) (i32.sub (local.get $width) (i32.const 8)))
        (then (local.set $column (i32.sub (local.get $width) (i32.const 8)))))
      (local.set $to (i32.add (local.get $out) (i32.shl (local.get $column) (i32.const 2))))
      (local.set $pixel (i32.const 0))
      (loop $pixels_loop
        (local.set $end (i32.add (local.get $offsets) (i32.shl (local.get $pixel) (i32.const 2))))
        (local.set $x0 (i32.add (local.get $x) (i32.load offset=0 (local.get $end))))
        (local.set $x1 (i32.add (local.get $x) (i32.load offset=4 (local.get $end))))
        (local.set $x2 (i32.add (local.get $x) (i32.load offset=8 (local.get $end))))
        (local.set $x3 (i32.add (local.get $x) (i32.load offset=12 (local.get $end))))
        (local.set $a0 (v128.load offset=0 (local.get $bias)))
        (local.set $b0 (v128.load offset=16 (local.get $bias)))
        (local.set $a1 (local.get $a0)) (local.set $a2 (local.get $a0)) (local.set $a3 (local.get $a0))
        (local.set $b1 (local.get $b0)) (local.set $b2 (local.get $b0)) (local.set $b3 (local.get $b0))
        (local.set $w (local.get $weights))
        (local.set $run (local.get $runs))
        (loop $runs_loop
          (local.set $end (i32.add (local.get $x0) (local.get $length)))
          (loop $floats_loop
            (local.set $a (v128.load offset=0 (local.get $w)))
            (local.set $b (v128.load offset=16 (local.get $w)))
            (local.set $v (v128.load32_splat (local.get $x0)))
            (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $v) (local.get $a))))
            (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $v) (local.get $b))))
            (local.set $v (v128.load32_splat (local.get $x1)))
            (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $v) (local.get $a))))
            (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $v) (local.get $b))))
            (local.set $v (v128.load32_splat (local.get $x2)))
            (local.set $a2 (f32x4.add (local.get $a2) (f32x4.mul (local.get $v) (local.get $a))))
            (local.set $b2 (f32x4.add (local.get $b2) (f32x4.mul (local.get $v) (local.get $b))))
            (local.set $v (v128.load32_splat (local.get $x3)))
            (local.set $a3 (f32x4.add (local.get $a3) (f32x4.mul (local.get $v) (local.get $a))))
            (local.set $b3 (f32x4.add (local.get $b3) (f32x4.mul (local.get $v) (local.get $b))))
            (local.set $w (i32.add (local.get $w) (i32.const 32)))
            (local.set $x1 (i32.add (local.get $x1) (i32.const 4)))
            (local.set $x2 (i32.add (local.get $x2) (i32.const 4)))
            (local.set $x3 (i32.add (local.get $x3) (i32.const 4)))
            (local.set $x0 (i32.add (local.get $x0) (i32.const 4)))
            (br_if $floats_loop (i32.lt_u (local.get $x0) (local.get $end))))
          (local.set $end (i32.sub (local.get $stride) (local.get $length)))
          (local.set $x0 (i32.add (local.get $x0) (local.get $end)))
          (local.set $x1 (i32.add (local.get $x1) (local.get $end)))
          (local.set $x2 (i32.add (local.get $x2) (local.get $end)))
          (local.set $x3 (i32.add (local.get $x3) (local.get $end)))
          (local.set $run (i32.sub (local.get $run) (i32.const 1)))
          (br_if $runs_loop (local.get $run)))
        (v128.store offset=0 (local.get $to) (local.get $a0))
        (v128.store offset=16 (local.get $to) (local.get $b0))
        (local.set $to (i32.add (local.get $to) (local.get $row)))
        (v128.store offset=0 (local.get $to) (local.get $a1))
        (v128.store offset=16 (local.get $to) (local.get $b1))
        (local.set $to (i32.add (local.get $to) (local.get $row)))
        (v128.store offset=0 (local.get $to) (local.get $a2))
        (v128.store offset=16 (local.get $to) (local.get $b2))
        (local.set $to (i32.add (local.get $to) (local.get $row)))
        (v128.store offset=0 (local.get $to) (local.get $a3))
        (v128.store offset=16 (local.get $to) (local.get $b3))
        (local.set $to (i32.add (local.get $to) (local.get $row)))
        (local.set $pixel (i32.add (local.get $pixel) (i32.const 4)))
        (br_if $pixels_loop (i32.lt_u (local.get $pixel) (local.get $pixels))))
      (local.set $weights (local.get $w))
      (local.set $bias (i32.add (local.get $bias) (i32.const 32)))
      (local.set $block (i32.add (local.get $block) (i32.const 1)))
      (br_if $blocks_loop (i32.lt_u (local.get $block) (local.get $blocks)))))

  ;; sums[c] = sum over p of (x[p, c] - centre[c]), squares[c] the same of its square; x is (pixels, channels),
  ;; and channels at least four. Four channels at a time; the last four may begin within those before.
  (func (export "moments")
    (param $x i32) (param $pixels i32) (param $channels i32) (param $centre i32) (param $sums i32) (param $squares i32)
    (local $channel i32) (local $from i32) (local $end i32) (local $row i32)
    (local $c v128) (local $d v128) (local $sum v128) (local $square v128)
    (local.set $row (i32.shl (local.get $channels) (i32.const 2)))
    (loop $channels_loop
      (if (i32.gt_u (local.get $channel) (i32.sub (local.get $row) (i32.const 16)))
        (then (local.set $channel (i32.sub (local.get $row) (i32.const 16)))))
      (local.set $c (v128.load (i32.add (local.get $centre) (local.get $channel))))
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $square (v128.const f32x4 0 0 0 0))
      (local.set $from (i32.add (local.get $x) (local.get $channel)))
      (local.set $end (i32.add (local.get $from) (i32.mul (local.get $pixels) (local.get $row))))
      (loop $pixels_loop
        (local.set $d (f32x4.sub (v128.load (local.get $from)) (local.get $c)))
        (local.set $sum (f32x4.add (local.get $sum) (local.get $d)))
        (local.set $square (f32x4.add (local.get $square) (f32x4.mul (local.get $d) (local.get $d))))
        (local.set $from (i32.add (local.get $from) (local.get $row)))
        (br_if $pixels_loop (i32.lt_u (local.get $from) (local.get $end))))
      (v128.store (i32.add (local.get $sums) (local.get $channel)) (local.get $sum))
      (v128.store (i32.add (local.get $squares) (local.get $channel)) (local.get $square))
      (local.set $channel (i32.add (local.get $channel) (i32.const 16)))
      (br_if $channels_loop (i32.lt_u (local.get $channel) (local.get $row)))))

  ;; e^x of four numbers, to seven digits: x = k ln 2 + r with |r| <= ln 2 / 2, e^r by its series, and 2^k is an exponent.
  (func $exponential (param $x v128) (result v128)
    (local $k v128) (local $r v128)
    (local.set $x (f32x4.min (f32x4.max (local.get $x) (v128.const f32x4 -87 -87 -87 -87)) (v128.const f32x4 88 88 88 88)))
    (local.set $k (f32x4.nearest (f32x4.mul (local.get $x) (v128.const f32x4 1.442695041 1.442695041 1.442695041 1.442695041))))
    ;; ln 2 = 0.693359375 - 0.00021219444005469: the first has so few digits that k times it is exact
    (local.set $r (f32x4.sub (local.get $x) (f32x4.mul (local.get $k) (v128.const f32x4 0.693359375 0.693359375 0.693359375 0.693359375))))
    (local.set $r (f32x4.add (local.get $r) (f32x4.mul (local.get $k) (v128.const f32x4 0.00021219444005469 0.00021219444005469 0.00021219444005469 0.00021219444005469))))
    ;; 1 + r (1 + r/2 (1 + r/3 (1 + ... r/7)))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (local.get $r) (v128.const f32x4 0.14285714285 0.14285714285 0.14285714285 0.14285714285))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (f32x4.mul (local.get $r) (v128.const f32x4 0.16666666666 0.16666666666 0.16666666666 0.16666666666)) (local.get $x))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (f32x4.mul (local.get $r) (v128.const f32x4 0.2 0.2 0.2 0.2)) (local.get $x))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (f32x4.mul (local.get $r) (v128.const f32x4 0.25 0.25 0.25 0.25)) (local.get $x))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (f32x4.mul (local.get $r) (v128.const f32x4 0.33333333333 0.33333333333 0.33333333333 0.33333333333)) (local.get $x))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (f32x4.mul (local.get $r) (v128.const f32x4 0.5 0.5 0.5 0.5)) (local.get $x))))
    (local.set $x (f32x4.add (v128.const f32x4 1 1 1 1) (f32x4.mul (local.get $r) (local.get $x))))
    (f32x4.mul (local.get $x)
      (i32x4.shl (i32x4.add (i32x4.trunc_sat_f32x4_s (local.get $k)) (v128.const i32x4 127 127 127 127)) (i32.const 23))))

  ;; y = x * scale[c] + shift[c], and where $silu is not 0 y / (1 + e^-y), of (pixels, channels), channels at least four.
  ;; $out may not be $x: the last four channels may begin within those before, and are then done twice.
  (func (export "normalise")
    (param $x i32) (param $pixels i32) (param $channels i32) (param $scale i32) (param $shift i32) (param $silu i32)
    (param $out i32)
    (local $channel i32) (local $row i32) (local $y v128)
    (local.set $row (i32.shl (local.get $channels) (i32.const 2)))
    (loop $pixels_loop
      (local.set $channel (i32.const 0))
      (loop $channels_loop
        (if (i32.gt_u (local.get $channel) (i32.sub (local.get $row) (i32.const 16)))
          (then (local.set $channel (i32.sub (local.get $row) (i32.const 16)))))
        (local.set $y (f32x4.add
          (f32x4.mul
            (v128.load (i32.add (local.get $x) (local.get $channel)))
            (v128.load (i32.add (local.get $scale) (local.get $channel))))
          (v128.load (i32.add (local.get $shift) (local.get $channel)))))
        (if (local.get $silu)
          (then (local.set $y (f32x4.div (local.get $y)
            (f32x4.add (v128.const f32x4 1 1 1 1) (call $exponential (f32x4.neg (local.get $y))))))))
        (v128.store (i32.add (local.get $out) (local.get $channel)) (local.get $y))
        (local.set $channel (i32.add (local.get $channel) (i32.const 16)))
        (br_if $channels_loop (i32.lt_u (local.get $channel) (local.get $row))))
      (local.set $x (i32.add (local.get $x) (local.get $row)))
      (local.set $out (i32.add (local.get $out) (local.get $row)))
      (local.set $pixels (i32.sub (local.get $pixels) (i32.const 1)))
      (br_if $pixels_loop (local.get $pixels))))

  ;; x = e^(scale * x) of $count floats, a multiple of four, where they lie.
  (func (export "exponentials") (param $x i32) (param $count i32) (param $scale f32)
    (local $end i32)
    (local.set $end (i32.add (local.get $x) (i32.shl (local.get $count) (i32.const 2))))
    (loop $loop
      (v128.store (local.get $x)
        (call $exponential (f32x4.mul (f32x4.splat (local.get $scale)) (v128.load (local.get $x)))))
      (local.set $x (i32.add (local.get $x) (i32.const 16)))
      (br_if $loop (i32.lt_u (local.get $x) (local.get $end))))))
